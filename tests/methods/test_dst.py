"""Debiased Self-Training against numbers of the authors' code, and where each loss goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of, gradient, image, network_of, problem_of, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import reversal_factor
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import DST
from layermatch.networks import Network
from layermatch.parts import Losses
from layermatch.policies import FixedThreshold, ReFixMatch

ORACLE = oracle.read("dst")
K = ORACLE["inputs"]["K"]
AUTHORS, PAPER = "authors/default", "paper/true_labels"


def grad_relu(**options: Any) -> SeparateLosses:
    return SeparateLosses(avg_clustering="none", **options)


def images(*, main: Any = None, worst: Any = None, pseudo: Any = None) -> Tensor:
    """The logits of the main, the worst and the pseudo head."""
    rows = len(main if main is not None else pseudo)
    return image(*(torch.zeros(rows, K) if part is None else part for part in (main, worst, pseudo))).requires_grad_()


@pytest.mark.oracle
@pytest.mark.parametrize(("variant", "worst_labels"), [(PAPER, "given"), (AUTHORS, "predicted")])
def test_every_step_is_that_of_the_authors_code(variant: str, worst_labels: str) -> None:
    network, eta = network_of(K, worst_head=K, pseudo_head=K), 0.3
    policy = FixedThreshold(threshold=ORACLE["inputs"]["threshold"])
    method = DST(
        policy=policy, rule=grad_relu(lambda_u=0.5), eta=eta, eta_prime=ORACLE["inputs"]["eta_prime"],
        worst_labels=worst_labels, reversal=0.25, ramp=0,
    )  # fmt: skip
    for recorded in ORACLE["steps"]:
        given, seen = recorded["inputs"], {}
        expected = {**recorded["outputs"][AUTHORS], **recorded["outputs"][variant]}
        labelled = images(main=given["logits_lb"], worst=given["logits_adv_l"])
        weak = images(main=given["logits_w"], worst=given["logits_adv_u"])
        strong = images(pseudo=given["logits_pseudo_s"])
        batch = batch_of(labelled, given["y_lb"], {"weak": weak, "strong": strong})
        losses = method.losses(batch, step_of(network, seen=seen))
        worst = losses["worst_labelled"].weighted + losses["worst_unlabelled"].weighted
        assert worst.item() == pytest.approx(eta * expected["worst_case_loss"], rel=1e-7)
        assert losses["pseudo"].value.item() == pytest.approx(expected["self_training_loss"], rel=1e-7)
        assert losses["pseudo"].weight == 0.5
        assert seen["pseudo_labels/mask_rate"].item() == pytest.approx(sum(expected["mask"]) / 24)
        losses.total.backward()
        # Reversed on its way to the extractor.
        for view, name in ((labelled, "grad_logits_adv_l"), (weak, "grad_logits_adv_u")):
            found = view.grad[:, K : 2 * K] / (-0.25 * eta)
            torch.testing.assert_close(found, tensor(expected[name]), rtol=1e-7, atol=1e-8)
        found = strong.grad[:, 2 * K :] / 0.5
        torch.testing.assert_close(found, tensor(expected["grad_logits_pseudo_s"]), rtol=1e-7, atol=1e-8)
        # Pseudo-labels and worst case are made of the main head's outputs without a gradient.
        assert weak.grad[:, :K].abs().max() == expected["grad_main_head_max_abs"] == 0


@pytest.mark.oracle
def test_the_factor_of_the_reversed_gradient_is_that_of_the_authors_code() -> None:
    """They count 1,000 steps of warm-up: here a run of 10,000 steps whose ramp is a tenth."""
    for number, factor in ORACLE["outputs"][AUTHORS]["grl_coefficient"]:
        found = reversal_factor(number / 10_000, length=0.1, highest=0.1)
        assert found == pytest.approx(factor, abs=1e-9)


def small(*, dropout: float = 0.0, **options: Any) -> tuple[Network, DST, Batch]:
    torch.manual_seed(0)
    network = Network(nn.Linear(5, 4), num_features=4, num_classes=3).double()
    method = DST(policy=FixedThreshold(threshold=0.4), rule=grad_relu(), dropout=dropout, **options)
    problem = problem_of(3, 4, num_labelled=6, num_unlabelled=12)
    for name, head in method.heads(problem).items():
        network.add_head(name, head.double())
    method.prepare(network, problem)
    views = {"weak": 2 * torch.randn(12, 5).double(), "strong": 2 * torch.randn(12, 5).double()}
    return network, method, batch_of(torch.randn(6, 5).double(), torch.arange(6) % 3, views)


def test_the_rule_gives_the_weight_and_nothing_else() -> None:
    network, method, batch = small()
    under_grad_relu = method.losses(batch, step_of(network, 5, 10))
    method.rule = Uniform()
    under_uniform = method.losses(batch, step_of(network, 5, 10))
    torch.testing.assert_close(under_grad_relu.total, under_uniform.total, rtol=0, atol=0)


@pytest.mark.parametrize("worst_labels", ["given", "predicted"])
def test_every_group_learns_from_the_terms_that_say_so(worst_labels: str) -> None:
    network, method, batch = small(worst_labels=worst_labels)
    losses = method.losses(batch, step_of(network, 5, 10))
    assert {name: term.value.item() > 0 for name, term in losses.items()} == dict.fromkeys(losses, True)
    for term in losses.values():
        for group in network.parameter_groups():
            assert gradient(term.value, network, group).any() == (group in term.reaches)
    assert set(network.parameter_groups()) == {"extractor", "classifier", "pseudo_head", "worst_head"}


def test_the_main_head_gets_the_gradient_of_the_labels_and_the_worst_head_minimises_what_the_extractor_maximises() -> (
    None
):
    network, method, batch = small(eta=0.5, eta_prime=2.0, reversal=0.2)
    losses: Losses = method.losses(batch, step_of(network, 5, 10))
    supervised = gradient(losses["supervised"].value, network, "classifier")
    torch.testing.assert_close(gradient(losses.total, network, "classifier"), supervised, rtol=1e-12, atol=0)
    worst = losses["worst_labelled"].weighted + losses["worst_unlabelled"].weighted
    plain = method.losses(batch, step_of(network, 5, 10))
    features = {name: network.extractor(view) for name, view in batch.unlabelled.views.items()}
    features["labelled"] = network.extractor(batch.labelled.views["weak"])
    head = network.heads["worst_head"]
    said = (
        head(features["weak"])
        .softmax(dim=1)
        .gather(1, (network(batch.unlabelled.views["weak"]).logits).argmax(1, keepdim=True))
    )
    by_hand = 0.5 * 2.0 * nn.functional.cross_entropy(head(features["labelled"]), batch.labelled.label)
    by_hand = by_hand + 0.5 * -(1 - said + 1e-6).log().mean()
    torch.testing.assert_close(worst, by_hand)
    torch.testing.assert_close(gradient(worst, network, "worst_head"), gradient(by_hand, network, "worst_head"))
    factor = reversal_factor(0.5, length=0.3, highest=0.2)
    torch.testing.assert_close(gradient(worst, network, "extractor"), -factor * gradient(by_hand, network, "extractor"))
    assert plain.total == losses.total  # no dropout, no state


def test_a_policys_own_loss_is_of_the_pseudo_head() -> None:
    network, method, batch = small()
    method.policy = ReFixMatch(threshold=0.6)
    losses = method.losses(batch, step_of(network))
    assert losses["low_confidence"].value > 0
    assert losses["low_confidence"].reaches == {"extractor", "pseudo_head"}
    assert gradient(losses["low_confidence"].value, network, "pseudo_head").any()
    assert not gradient(losses["low_confidence"].value, network, "classifier").any()


def test_the_further_heads_have_dropout_and_no_part_in_evaluation() -> None:
    network, method, batch = small(dropout=0.5)
    first, second = (method.losses(batch, step_of(network))["pseudo"].value for _ in range(2))
    assert first != second
    weak = batch.unlabelled.views["weak"]
    before = method.outputs(network, weak).logits
    for name in ("pseudo_head", "worst_head"):
        for parameter in network.heads[name].parameters():
            parameter.data.zero_()
    torch.testing.assert_close(method.outputs(network, weak).logits, before, rtol=0, atol=0)


def test_the_form_for_fine_tuning_counts_the_ramp_in_steps_and_has_one_hidden_layer() -> None:
    network, method, batch = small(ramp_steps=10, hidden_layers=1, width=7, reversal=0.2, eta=0.5)
    head = network.heads["pseudo_head"]
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [(7, 4), (3, 7)]
    found = []
    for max_steps in (100, 1_000):  # however long the run is
        worst = method.losses(batch, step_of(network, 5, max_steps))["worst_labelled"].weighted
        found.append(gradient(worst, network, "extractor"))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
    method.ramp_steps, method.ramp = None, 0.1
    worst = method.losses(batch, step_of(network, 5, 100))["worst_labelled"].weighted
    torch.testing.assert_close(gradient(worst, network, "extractor"), found[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": SeparateLosses(avg_clustering="ema_centroids")},
            "avg_clustering=ema_centroids is not legal with DST",
        ),
        ({"eta": -1}, "eta=-1"),
        ({"eta_prime": -1}, "eta_prime=-1"),
        ({"worst_labels": "both"}, "worst_labels='both'"),
        ({"reversal": -1}, "reversal=-1"),
        ({"ramp": 2}, "ramp=2"),
        ({"dropout": 1}, "dropout=1"),
        ({"ramp_steps": 0}, "ramp_steps=0"),
        ({"hidden_layers": 3}, "hidden_layers=3"),
        ({"width": 0}, "width=0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DST(**({"policy": FixedThreshold(), "rule": grad_relu()} | options))
