"""SimMatch against numbers of the authors' code, step by step: targets, losses, gradients and bank."""

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
from layermatch.functional import aggregated, instance_similarity_loss, similarity_distribution, unfolded
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import SimMatch
from layermatch.networks import Network
from layermatch.policies import SoftThreshold

ORACLE = oracle.read("simmatch")
SIZES = ORACLE["inputs"]
#: The decay of the bank for each variant, the paper's for CIFAR first.
VARIANTS = {"paper/ema_bank0.7": 0.7, "authors/replace_bank": 0.0}


def batch(inputs: dict[str, Any]) -> Any:
    strong = image(inputs["logits_s"], inputs["feats_s"]).requires_grad_()
    views = {"weak": image(inputs["logits_w"], inputs["feats_w"]), "strong": strong}
    return batch_of(image(inputs["logits_lb"], inputs["feats_lb"]), inputs["y_lb"], views, indices=inputs["idx_lb"])


def made(rule: Any = None, **options: Any) -> tuple[SimMatch, Network]:
    method = SimMatch(
        policy=Noted(threshold=SIZES["p_cutoff"]), rule=rule or Uniform(), share=SIZES["c_smooth"],
        temperature=SIZES["T"], alignment_queue=SIZES["da_len"], width=SIZES["feature_dim"], **options,
    )  # fmt: skip
    net = network_of(SIZES["K"], projection=SIZES["feature_dim"])
    method.prepare(net, problem_of(net.num_classes, net.num_features, num_labelled=SIZES["bank_size"]))
    method.double()
    method.bank.keys.copy_(tensor(SIZES["bank_init"]).T)
    return method, net


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize("teacher", ["live", "average"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_authors_code(variant: str, teacher: str, forward: str) -> None:
    """The averaged network is the same here, so that both teachers must give the same."""
    method, net = made(bank_decay=VARIANTS[variant], bank_from=1, teacher=teacher, forward=forward)
    worst = Worst()
    for number, recorded in enumerate(ORACLE["steps"]):
        inputs, expected = recorded["inputs"], oracle.expected(ORACLE, recorded, variant)
        given, step = batch(inputs), step_of(net, number)
        losses = method.losses(given, step)
        worst.see(losses["supervised"].value, expected["sup_loss"])
        worst.see(losses["pseudo"].value, expected["unsup_loss"])
        worst.see(losses["instance"].value, expected["in_loss"])
        worst.see(losses.total, expected["total_loss"])
        worst.see(method.policy.seen, expected["probs_x_ulb_w"])
        assert method.policy.given.weight.tolist() == expected["mask"]
        losses.total.backward()
        through = given.unlabelled.views["strong"].grad[:, SIZES["K"] :]
        unit, wanted = tensor(inputs["feats_s"]), tensor(expected["grad_feats_s"])
        worst.see(through, (wanted - (wanted * unit).sum(dim=1, keepdim=True) * unit).tolist())
        if number:
            aligned = tensor(expected["ema_probs_x_ulb_w"])
            similarity = similarity_distribution(tensor(inputs["feats_w"]), method.bank.keys, temperature=SIZES["T"])
            target = unfolded(similarity, aligned, method.bank.label)
            if "instance_target_first4" in expected:
                worst.see(target[:4], expected["instance_target_first4"])
                of_classes = aggregated(similarity, method.bank.label, num_classes=SIZES["K"])
                worst.see(of_classes, expected["aggregated_prob"])
            unit.requires_grad_()
            instance_similarity_loss(unit, method.bank.keys, target, temperature=SIZES["T"]).backward()
            worst.see(unit.grad, expected["grad_feats_s"])
        finish(method, step)
        worst.see(method.bank.keys.T, expected["state_bank"])
        assert method.bank.label.tolist() == expected["state_labels_bank"]
    assert worst.difference < 1e-8  # the recorded numbers have nine digits


def test_the_bank_waits_until_every_labelled_image_has_been_seen() -> None:
    method, net = made()
    used = []
    for number, recorded in enumerate(ORACLE["steps"]):
        losses = method.losses(batch(recorded["inputs"]), step_of(net, number))
        used.append(losses["instance"].value.item() > 0)
        seen = {index for earlier in ORACLE["steps"][:number] for index in earlier["inputs"]["idx_lb"]}
        assert used[-1] == (len(seen) == SIZES["bank_size"])
        finish(method, step_of(net, number))
    assert used[0] is False
    assert used[-1] == (len({i for s in ORACLE["steps"][:-1] for i in s["inputs"]["idx_lb"]}) == SIZES["bank_size"])


def test_the_averaged_teacher_makes_targets_and_bank() -> None:
    method, net = made(teacher="average", bank_from=0, bank_decay=0.0)
    average = network_of(SIZES["K"], projection=SIZES["feature_dim"])
    with torch.no_grad():
        average.projection.weight.mul_(torch.tensor([1.0, -1, 1, -1, 1]).double()[:, None])
    inputs = ORACLE["steps"][0]["inputs"]
    step = step_of(net, average=average)
    method.losses(batch(inputs), step)
    finish(method, step)
    expected = tensor(inputs["feats_lb"]) * torch.tensor([1.0, -1, 1, -1, 1]).double()
    torch.testing.assert_close(method.bank.keys[inputs["idx_lb"]], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", [Uniform, lambda: SeparateLosses(avg_clustering="none")])
def test_the_instance_loss_reaches_the_extractor_and_the_projection_alone(rule: Any) -> None:
    method, net = made(rule(), bank_from=0)
    losses = method.losses(batch(ORACLE["steps"][0]["inputs"]), step_of(net))
    assert losses["instance"].reaches == {"extractor", "projection"}
    losses["instance"].value.backward(retain_graph=True)
    assert net.projection.weight.grad.abs().sum() > 0
    assert net.classifier.weight.grad is None
    if not isinstance(method.rule, Uniform):
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


@pytest.mark.parametrize(
    "options",
    [
        {"share": 2}, {"temperature": 0}, {"lambda_in": -1}, {"width": 0}, {"teacher": "nobody"}, {"bank_decay": 1},
        {"bank_from": -1}, {"alignment_queue": 0},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(options))}=.* is not legal"):
        SimMatch(policy=SoftThreshold(), rule=Uniform(), **options)
