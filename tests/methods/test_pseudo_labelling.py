"""The FixMatch family against numbers of the peers' own code, in value and gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.networks import Network
from layermatch.parts import Losses, Problem, Step, Term
from layermatch.policies import FixedThreshold, Policy, Predictions, PseudoLabels

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "fixmatch.json").read_text(encoding="utf-8"))
VARIANT = ORACLE["paper_form"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def identity_network(num_classes: int) -> Network:
    """Its logits are its images, so that the oracle's logits can be given as images."""
    network = Network(nn.Identity(), num_features=num_classes, num_classes=num_classes).double()
    with torch.no_grad():
        network.classifier.weight.copy_(torch.eye(num_classes))
        network.classifier.bias.zero_()
    return network


def step_of(network: Network, seen: dict[str, Tensor] | None = None) -> Step:
    def record(means: dict[str, Tensor], ratios: Any = None) -> None:
        if seen is not None:
            seen.update(means)

    return Step(network, network, 0, 10, record, lambda *_: None)


def batch_of(inputs: dict[str, Any]) -> Batch:
    label, strong = torch.tensor(inputs["y_lb"]), tensor(inputs["logits_s"]).requires_grad_()
    views = {"weak": tensor(inputs["logits_w"]), "strong": strong}
    unlabelled = Unlabelled(views, torch.arange(len(strong)), torch.full((len(strong),), -1))
    return Batch(Samples({"weak": tensor(inputs["logits_lb"])}, label, torch.arange(len(label))), unlabelled)


@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize("rule", [Uniform, SeparateLosses])
def test_every_step_is_that_of_the_peers_code(rule: Any, forward: str) -> None:
    """LayerMatch without Avg-Clustering gives the extractor, and so the strong logits, FixMatch's gradient."""
    rule = rule() if rule is Uniform else rule(avg_clustering="none")
    num_classes = ORACLE["inputs"]["K"]
    network = identity_network(num_classes)
    threshold = ORACLE["config"][VARIANT]["p_cutoff"]
    method = PseudoLabelling(policy=FixedThreshold(threshold=threshold), rule=rule, forward=forward)
    method.prepare(network, Problem(num_classes, num_classes, 8, 24, (1, 1, 1), 10))
    for recorded in ORACLE["steps"]:
        expected, batch, seen = recorded["outputs"][VARIANT], batch_of(recorded["inputs"]), {}
        losses = method.losses(batch, step_of(network, seen))
        assert losses["supervised"].value.item() == pytest.approx(expected["sup_loss"], rel=1e-7)
        assert losses["pseudo"].value.item() == pytest.approx(expected["unsup_loss"], rel=1e-7)
        assert losses.reaching("extractor").item() == pytest.approx(expected["total_loss"], rel=1e-7)
        assert seen["pseudo_labels/mask_rate"].item() == pytest.approx(sum(expected["mask"]) / len(expected["mask"]))
        losses.total.backward()
        strong = batch.unlabelled.views["strong"]
        torch.testing.assert_close(strong.grad, tensor(expected["grad_logits_s"]), rtol=1e-7, atol=1e-8)
        has_pseudo = rule.__class__ is Uniform
        expected_classifier = "total_loss" if has_pseudo else "sup_loss"
        assert losses.reaching("classifier").item() == pytest.approx(expected[expected_classifier], rel=1e-7)


class WithLoss(FixedThreshold):
    """A policy with a loss of its own."""

    def losses(self, strong: Any, pseudo_labels: PseudoLabels, predictions: Predictions) -> Losses:
        return Losses(own=Term(strong.logits.square().mean(), "pseudo_labels", frozenset({"extractor"})))


@pytest.mark.parametrize(("rule", "reaches"), [(Uniform, True), (SeparateLosses, False)])
def test_a_policys_own_loss_takes_the_route_of_the_pseudo_labels(rule: Any, reaches: bool) -> None:
    network = identity_network(ORACLE["inputs"]["K"])
    policy: Policy = WithLoss()
    method = PseudoLabelling(policy=policy, rule=rule())
    method.prepare(network, Problem(6, 6, 8, 24, (1, 1, 1), 10))
    batch = batch_of(ORACLE["steps"][0]["inputs"])
    losses = method.losses(batch, step_of(network))
    losses["own"].value.backward()
    assert batch.unlabelled.views["strong"].grad.abs().sum() > 0
    assert (network.classifier.weight.grad is not None) == reaches


def test_it_needs_unlabelled_images() -> None:
    method = PseudoLabelling(policy=FixedThreshold(), rule=Uniform())
    batch = batch_of(ORACLE["steps"][0]["inputs"])
    with pytest.raises(UserError, match="needs unlabelled images"):
        method.losses(batch._replace(unlabelled=None), step_of(identity_network(6)))
