"""ShrinkMatch against numbers of the authors' code, step by step: targets, losses, gradients and the certain share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import (
    Noted,
    batch_of,
    check_classifier_learns_from_labels,
    finish,
    image,
    network_of,
    problem_of,
    step_of,
)
from tests.oracle import Worst

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import ShrinkMatch
from layermatch.networks import Network
from layermatch.policies import SoftThreshold

ORACLE = oracle.read("shrinkmatch")
SIZES = ORACLE["inputs"]
#: The alignment's queue for each variant, the paper's first.
VARIANTS = {"authors/cifar_DA": SIZES["da_len"], "authors/cifar_noDA": None}


def batch(inputs: dict[str, Any]) -> Any:
    nothing = torch.zeros(len(inputs["logits_lb"]), SIZES["K"]).tolist()
    unused = torch.zeros(len(inputs["logits_w"]), SIZES["K"]).tolist()
    strong = image(inputs["logits_s"], inputs["logits_aux_s"]).requires_grad_()
    views = {"weak": image(inputs["logits_w"], unused), "strong": strong}
    return batch_of(image(inputs["logits_lb"], nothing), inputs["y_lb"], views)


def made(rule: Any = None, **options: Any) -> tuple[ShrinkMatch, Network]:
    method = ShrinkMatch(policy=Noted(threshold=SIZES["threshold"]), rule=rule or Uniform(), **options)
    net = network_of(SIZES["K"], auxiliary=SIZES["K"])
    method.prepare(net, problem_of(net.num_classes, net.num_features))
    return method.double(), net


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_authors_code(variant: str, forward: str) -> None:
    method, net = made(
        alignment_queue=VARIANTS[variant], shrink_threshold=ORACLE["config"][variant]["threshold"], forward=forward
    )
    worst = Worst()
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"][variant]
        given, step = batch(recorded["inputs"]), step_of(net, number)
        losses = method.losses(given, step)
        worst.see(losses["supervised"].value, expected["sup_loss"])
        worst.see(losses["pseudo"].value, expected["unsup_loss"])
        shrunk = expected["shrink_loss_sum"] / SIZES["N"] * expected["state_certain_ratio_ema"]
        worst.see(losses["shrink"].value, shrunk)
        worst.see(losses.total, expected["total_loss"])
        worst.see(method.policy.seen, expected["target"])
        assert method.policy.given.weight.tolist() == expected["mask"]
        losses.total.backward()
        grad = given.unlabelled.views["strong"].grad
        worst.see(grad[:, : SIZES["K"]], expected["grad_logits_s"])
        worst.see(grad[:, SIZES["K"] :], expected["grad_logits_aux_s"])
        finish(method, step)
        worst.see(method.ratio.value, expected["state_certain_ratio_ema"])
    assert worst.difference < 1e-8  # the recorded numbers have nine digits


@pytest.mark.parametrize("rule", [Uniform, lambda: SeparateLosses(avg_clustering="none")])
def test_the_loss_reaches_the_extractor_and_the_auxiliary_head_alone(rule: Any) -> None:
    method, net = made(rule())
    given = batch(ORACLE["steps"][0]["inputs"])
    losses = method.losses(given, step_of(net))
    assert losses["shrink"].reaches == {"extractor", "auxiliary"}
    losses["shrink"].value.backward(retain_graph=True)
    assert net.auxiliary.weight.grad.abs().sum() > 0
    assert given.unlabelled.views["strong"].grad.abs().sum() > 0
    assert net.classifier.weight.grad is None
    if not isinstance(method.rule, Uniform):
        check_classifier_learns_from_labels(net, losses)


def test_its_weight_is_that_of_the_pseudo_label_loss() -> None:
    method, net = made(Uniform(lambda_u=10.0))
    losses = method.losses(batch(ORACLE["steps"][0]["inputs"]), step_of(net))
    assert losses["shrink"].weight == 10.0


def test_a_step_that_is_not_applied_is_forgotten() -> None:
    method, net = made()
    other, _ = made()
    first, second = (recorded["inputs"] for recorded in ORACLE["steps"][:2])
    method.losses(batch(second), step_of(net))
    finish(method, is_applied=False)
    for one in (method, other):
        one.losses(batch(first), step_of(net))
        finish(one, step_of(net))
    for name, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert method.ratio.value > 0


def test_its_auxiliary_head_normalises_strong_views_alone() -> None:
    method = ShrinkMatch(policy=SoftThreshold(), rule=Uniform())
    net = Network(torch.nn.Identity(), num_features=8, num_classes=3)
    for name, head in method.heads(problem_of(net.num_classes, net.num_features)).items():
        net.add_head(name, head)
    method.prepare(net, problem_of(net.num_classes, net.num_features))
    images = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    given = batch_of(images[0], [0, 1, 2, 0, 1, 2], {"weak": images[1], "strong": images[2]})
    method.losses(given, step_of(net))
    first = net.auxiliary[0](images[2]).detach()
    torch.testing.assert_close(net.auxiliary[1].running_mean, 0.1 * first.mean(dim=0))
    assert list(net.parameter_groups()) == ["extractor", "classifier", "auxiliary"]


@pytest.mark.parametrize("options", [{"shrink_threshold": 0}, {"ratio_decay": 1}, {"alignment_queue": 0}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(options))}=.* is not legal"):
        ShrinkMatch(policy=SoftThreshold(), rule=Uniform(), **options)
