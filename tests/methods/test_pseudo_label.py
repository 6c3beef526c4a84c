"""Pseudo-Label: its losses and gradients by hand, with any rule, and what BatchNorm sees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, network_of, problem_of, step_of
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.layerwise import LayerwiseRule, SeparateLosses, Uniform
from layermatch.methods import PseudoLabel
from layermatch.networks import Network
from layermatch.policies import CurriculumThresholds, FixedThreshold, Policy

#: The logits of weak views; nothing else is read of it.
INPUTS = [recorded["inputs"] for recorded in oracle.read("fixmatch")["steps"]]


def batch_of(inputs: dict[str, Any]) -> Batch:
    """A batch as the method asks for it: no strong views."""
    batch = batch_of_logits(inputs)
    return batch._replace(unlabelled=batch.unlabelled._replace(views={"weak": batch.unlabelled.views["weak"]}))


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


def by_hand(weak: Tensor, threshold: float) -> tuple[float, Tensor]:
    """The mean cross-entropy of confident rows with their own class, and its gradient."""
    value, gradient = 0.0, torch.zeros_like(weak)
    for n, row in enumerate(weak.tolist()):
        probs = softmax(row)
        label = probs.index(max(probs))
        if probs[label] >= threshold:
            value -= math.log(probs[label]) / len(weak)
            gradient[n] = torch.tensor([p - (k == label) for k, p in enumerate(probs)], dtype=torch.float64)
    return value, gradient / len(weak)


def make(rule: LayerwiseRule, policy: Policy | None = None) -> tuple[PseudoLabel, Network]:
    network = network_of(6)
    method = PseudoLabel(policy=policy or FixedThreshold(threshold=0.6), rule=rule)
    method.prepare(network, problem_of(6))
    return method, network


@pytest.mark.parametrize(
    "rule", [Uniform(lambda_u=2.0), SeparateLosses(lambda_u=2.0, avg_clustering="none")], ids=["uniform", "grad_relu"]
)
@pytest.mark.parametrize(("number", "ramp"), [(0, 0.0), (10, 0.25), (40, 1.0), (90, 1.0)])
def test_the_weak_view_learns_its_own_class(rule: LayerwiseRule, number: int, ramp: float) -> None:
    method, network = make(rule)
    for inputs in INPUTS:
        batch = batch_of(inputs)
        losses = method.losses(batch, step_of(network, number))
        losses.total.backward()
        weak = batch.unlabelled.views["weak"]
        value, gradient = by_hand(weak.detach(), 0.6)
        assert value > 0
        assert losses["pseudo"].value.item() == pytest.approx(value, rel=1e-9)
        assert losses["pseudo"].weight == 2 * ramp
        torch.testing.assert_close(weak.grad, 2 * ramp * gradient, rtol=1e-9, atol=1e-12)
        labelled = batch.labelled.views["weak"]
        expected = labelled.detach().softmax(dim=1) - nn.functional.one_hot(batch.labelled.label, labelled.shape[1])
        torch.testing.assert_close(labelled.grad, expected / len(labelled), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reading", ["none", "ema_classifier", "ema_outputs", "ema_centroids", "ema_teacher"])
def test_the_classifier_learns_from_labels_alone_under_grad_relu(reading: str) -> None:
    method, network = make(SeparateLosses(avg_clustering=reading), CurriculumThresholds(threshold=0.6))
    step, parameters = step_of(network, 90), list(network.classifier.parameters())
    for inputs in INPUTS[:3]:
        batch = batch_of(inputs)
        losses = method.losses(batch, step)
        of_labels = torch.autograd.grad(losses.of("labels"), parameters, retain_graph=True)
        for found, expected in zip(torch.autograd.grad(losses.total, parameters), of_labels, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for state in (method.rule.avg_clustering, method.policy, method):
            state.double().after_step(step)


def test_the_ramp_weighs_all_losses_of_pseudo_labels() -> None:
    method, network = make(SeparateLosses(avg_clustering="ema_centroids", weight=0.25))
    losses = method.losses(batch_of(INPUTS[0]), step_of(network, 20))
    weights = {name: term.weight for name, term in losses.items()}
    assert weights == pytest.approx({"supervised": 1, "pseudo": 0.5 * 0.75, "avg_clustering": 0.5 * 0.25})
    method = PseudoLabel(policy=FixedThreshold(), rule=Uniform(), ramp=0)
    method.prepare(network, problem_of(6))
    assert method.losses(batch_of(INPUTS[0]), step_of(network, 0))["pseudo"].weight == 1


def test_running_statistics_are_those_of_labelled_images() -> None:
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    network = Network(extractor, num_features=3, num_classes=6).double()
    method = PseudoLabel(policy=FixedThreshold(threshold=0.01), rule=Uniform())
    method.prepare(network, problem_of(6))
    batch = batch_of(INPUTS[0])
    losses = method.losses(batch, step_of(network, 50))
    losses["pseudo"].value.backward()
    torch.testing.assert_close(extractor[0].running_mean, 0.1 * batch.labelled.views["weak"].detach().mean(dim=0))
    assert batch.unlabelled.views["weak"].grad.abs().sum() > 0
    assert batch.labelled.views["weak"].grad is None  # each pass has statistics of its own


@pytest.mark.parametrize("ramp", [-0.1, 1.1, "1"])
def test_wrong_options_are_refused(ramp: object) -> None:
    with pytest.raises(UserError, match=r"^ramp="):
        PseudoLabel(policy=FixedThreshold(), rule=Uniform(), ramp=ramp)  # type: ignore[arg-type]
