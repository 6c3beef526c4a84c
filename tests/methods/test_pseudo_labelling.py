"""The FixMatch family against numbers of the peers' own code, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, network_of, problem_of, step_of
from tests.oracle import tensor

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.parts import DistributionAlignment, Losses, Term
from layermatch.policies import (
    Aligned,
    AveragedNetwork,
    FixedThreshold,
    Policy,
    Predictions,
    PseudoLabels,
    ReFixMatch,
    RelativeThreshold,
)

ORACLE = oracle.read("fixmatch")
VARIANT = ORACLE["paper_form"]


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize("rule", [Uniform, SeparateLosses])
def test_every_step_is_that_of_the_peers_code(rule: Any, forward: str) -> None:
    """LayerMatch without Avg-Clustering gives the extractor, and so the strong logits, FixMatch's gradient."""
    rule = rule() if rule is Uniform else rule(avg_clustering="none")
    num_classes = ORACLE["inputs"]["K"]
    network = network_of(num_classes)
    threshold = ORACLE["config"][VARIANT]["p_cutoff"]
    method = PseudoLabelling(policy=FixedThreshold(threshold=threshold), rule=rule, forward=forward)
    method.prepare(network, problem_of(num_classes))
    for recorded in ORACLE["steps"]:
        expected, batch, seen = recorded["outputs"][VARIANT], batch_of_logits(recorded["inputs"]), {}
        losses = method.losses(batch, step_of(network, seen=seen))
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
    network = network_of(ORACLE["inputs"]["K"])
    policy: Policy = WithLoss()
    method = PseudoLabelling(policy=policy, rule=rule())
    method.prepare(network, problem_of(6))
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    losses = method.losses(batch, step_of(network))
    losses["own"].value.backward()
    assert batch.unlabelled.views["strong"].grad.abs().sum() > 0
    assert (network.classifier.weight.grad is not None) == reaches


@pytest.mark.parametrize("evaluated", ["clean", "pseudo"])
def test_the_averaged_networks_classifier_teaches_whichever_head_is_evaluated(evaluated: str) -> None:
    torch.manual_seed(0)
    network = network_of(ORACLE["inputs"]["K"])
    rule = SeparateLosses(decoupled=True, evaluate_head=evaluated, avg_clustering="none")
    method = PseudoLabelling(policy=AveragedNetwork(), rule=rule)
    for name, head in method.heads(problem_of(6)).items():
        network.add_head(name, head)
    method.prepare(network, problem_of(6))
    weak = batch_of_logits(ORACLE["steps"][0]["inputs"]).unlabelled.views["weak"]
    assert torch.equal(method.teach(weak, network), network(weak).logits)


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (RelativeThreshold(), "RelativeThreshold: it compares"), (ReFixMatch(), "ReFixMatch, which learns from masked"),
        (Aligned(policy=ReFixMatch(), alignment=DistributionAlignment(target="uniform")), "ReFixMatch, which learns"),
        (Aligned(policy=FixedThreshold(), alignment=DistributionAlignment(target="predictions")), "this alignment: it"),
    ],
)  # fmt: skip
def test_who_needs_masked_views_is_named(policy: Policy, name: str) -> None:
    with pytest.raises(UserError, match=f"skip_masked=true is not legal with {name}"):
        PseudoLabelling(policy=policy, rule=Uniform(), forward="split", skip_masked=True)


def test_it_needs_unlabelled_images() -> None:
    method = PseudoLabelling(policy=FixedThreshold(), rule=Uniform())
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    with pytest.raises(UserError, match="needs unlabelled images"):
        method.losses(batch._replace(unlabelled=None), step_of(network_of(6)))
