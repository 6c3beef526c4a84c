"""CoMatch against numbers of the authors' code, step by step: probabilities, graph, losses, gradients and bank."""

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
from tests.oracle import Worst, tensor

from layermatch.errors import UserError
from layermatch.functional import graph_contrast_loss, pseudo_label_graph
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import CoMatch
from layermatch.networks import Network
from layermatch.policies import SoftThreshold

ORACLE = oracle.read("comatch")
SIZES = ORACLE["inputs"]
ROWS = SIZES["queue_batch"] * (SIZES["uratio"] + 1) * SIZES["B"]


def network() -> Network:
    return network_of(SIZES["K"], projection=SIZES["feature_dim"])


def batch(inputs: dict[str, Any]) -> Any:
    strong = image(inputs["logits_s"], inputs["feats_s0"]).requires_grad_()
    second = image(inputs["logits_s"], inputs["feats_s1"]).requires_grad_()
    views = {"weak": image(inputs["logits_w"], inputs["feats_w"]), "strong": strong, "strong_2": second}
    return batch_of(image(inputs["logits_lb"], inputs["feats_lb"]), inputs["y_lb"], views)


def made(rule: Any = None, **options: Any) -> tuple[CoMatch, Network]:
    config = ORACLE["config"]["authors/smoothing"]
    method = CoMatch(
        policy=Noted(threshold=config["p_cutoff"]), rule=rule or Uniform(), alpha=config["smoothing_alpha"],
        temperature=config["T"], graph_threshold=config["contrast_p_cutoff"], alignment_queue=config["da_len"],
        width=SIZES["feature_dim"], bank_rows=ROWS, **options,
    )  # fmt: skip
    net = network()
    method.prepare(net, problem_of(net.num_classes, net.num_features, num_unlabelled=1000))
    return method.double(), net


def tangent(grad: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """The gradient to what is scaled to length 1, at a point of that length."""
    return grad - (grad * unit).sum(dim=1, keepdim=True) * unit


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize(("variant", "first"), [("authors/smoothing", 2), ("authors/no_smoothing_epoch0", 1000)])
def test_every_step_is_that_of_the_authors_code(variant: str, first: int, forward: str) -> None:
    method, net = made(bank_from=first, forward=forward)
    worst = Worst()
    for number, recorded in enumerate(ORACLE["steps"]):
        inputs, expected = recorded["inputs"], oracle.expected(ORACLE, recorded, variant)
        given, step = batch(inputs), step_of(net, number)
        losses = method.losses(given, step)
        worst.see(losses["supervised"].value, expected["sup_loss"])
        worst.see(losses["pseudo"].value, expected["unsup_loss"])
        worst.see(losses["contrast"].value, expected["contrast_loss"])
        worst.see(losses.total, expected["total_loss"])
        worst.see(method.policy.seen, expected["probs"])
        assert method.policy.given.weight.tolist() == expected["mask"]
        graph = pseudo_label_graph(method.policy.seen, threshold=method.graph_threshold)
        worst.see(graph.diagonal(), expected["graph_diag"])
        assert (graph > 0).sum(dim=1).tolist() == expected["graph_edges"]
        if "graph" in expected:
            worst.see(graph, expected["graph"])
        losses.total.backward()
        keys = [tensor(inputs[f"feats_s{i}"]).requires_grad_() for i in range(2)]
        graph_contrast_loss(*keys, graph, temperature=method.temperature).backward()
        for i, view in enumerate(("strong", "strong_2")):
            worst.see(keys[i].grad, expected[f"grad_feats_s{i}"])
            through = given.unlabelled.views[view].grad[:, SIZES["K"] :]
            wanted = tangent(tensor(expected[f"grad_feats_s{i}"]), tensor(inputs[f"feats_s{i}"]))
            worst.see(through, wanted.tolist())
        finish(method, step)
        assert int(method.bank.num_written) % ROWS == expected["state_queue_ptr"]
        worst.see(method.bank.probs.mean(dim=0), expected["state_queue_probs_mean"])
        worst.see(method.bank.keys.mean(dim=0), expected["state_queue_feats_mean"])
    assert worst.difference < 1e-8  # the recorded numbers have nine digits
    assert number == 6  # the bank has wrapped twice


def test_smoothing_waits_until_the_bank_is_full() -> None:
    method, net = made()
    plain, _ = made(bank_from=1000)
    for number, recorded in enumerate(ORACLE["steps"]):
        step = step_of(net, number)
        for one in (method, plain):
            one.losses(batch(recorded["inputs"]), step)
        assert torch.equal(method.policy.seen, plain.policy.seen) == (number < 3)
        for one in (method, plain):
            finish(one, step)


@pytest.mark.parametrize("rule", [Uniform, lambda: SeparateLosses(avg_clustering="none")])
def test_the_contrast_reaches_the_extractor_and_the_projection_alone(rule: Any) -> None:
    method, net = made(rule())
    losses = method.losses(batch(ORACLE["steps"][0]["inputs"]), step_of(net))
    assert losses["contrast"].reaches == {"extractor", "projection"}
    losses["contrast"].value.backward(retain_graph=True)
    assert net.projection.weight.grad.abs().sum() > 0
    assert net.classifier.weight.grad is None
    if not isinstance(method.rule, Uniform):
        net.projection.weight.grad = None
        check_classifier_learns_from_labels(net, losses)


def test_a_step_that_is_not_applied_is_forgotten() -> None:
    method, net = made(bank_from=0)
    other, _ = made(bank_from=0)
    first, second = (recorded["inputs"] for recorded in ORACLE["steps"][:2])
    method.losses(batch(second), step_of(net))
    finish(method, is_applied=False)
    for one in (method, other):
        one.losses(batch(first), step_of(net))
        finish(one, step_of(net))
    for name, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_its_projection_is_a_head_of_its_own() -> None:
    method = CoMatch(policy=SoftThreshold(), rule=Uniform(), width=5)
    net = Network(torch.nn.Identity(), num_features=9, num_classes=3)
    for name, head in method.heads(problem_of(3, 9)).items():
        net.add_head(name, head)
    assert list(net.parameter_groups()) == ["extractor", "classifier", "projection"]
    assert net(torch.zeros(2, 9), heads=method.heads_sent).heads["projection"].shape == (2, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 2}, {"temperature": 0}, {"graph_threshold": -1}, {"lambda_c": -1}, {"width": 0}, {"bank_rows": 0},
        {"bank_from": -1}, {"alignment_queue": 0},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(options))}=.* is not legal"):
        CoMatch(policy=SoftThreshold(), rule=Uniform(), **options)


def test_masked_views_must_be_sent() -> None:
    with pytest.raises(UserError, match="skip_masked=true is not legal with CoMatch"):
        CoMatch(policy=SoftThreshold(), rule=Uniform(), forward="split", skip_masked=True)
