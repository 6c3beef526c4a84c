"""DebiasPL's policy against loops in numpy; no code of the peers was run for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, finish, in_double, network_of, problem_of, step_of

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.policies import DebiasedThreshold, Predictions

STEPS = oracle.read("freematch")["steps"]  # logits of six classes


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rule", [Uniform, SeparateLosses])
def test_every_step_is_that_of_the_equations(rule: Any, strength: float) -> None:
    rule = rule() if rule is Uniform else rule(avg_clustering="none")
    network, policy = network_of(6), DebiasedThreshold(threshold=0.6, strength=strength, decay=0.7)
    method = PseudoLabelling(policy=policy, rule=rule)
    method.prepare(network, problem_of(6))
    in_double(policy, 6)
    average = np.full(6, 1 / 6)
    accepted = 0
    for recorded in STEPS:
        batch = batch_of_logits(recorded["inputs"])
        losses = method.losses(batch, step_of(network))
        losses["pseudo"].value.backward()
        weak, strong = (np.array(recorded["inputs"][name]) for name in ("logits_w", "logits_s"))
        debiased = softmax(weak - strength * np.log(average))
        average = 0.7 * average + 0.3 * softmax(weak).mean(axis=0)
        with_margin = softmax(strong + strength * np.log(average))
        label, mask = debiased.argmax(axis=1), (debiased.max(axis=1) >= 0.6).astype(float)
        loss = np.mean([-m * np.log(q[y]) for m, q, y in zip(mask, with_margin, label, strict=True)])
        assert losses["pseudo"].value.item() == pytest.approx(loss, rel=1e-10)
        gradient = mask[:, None] * (with_margin - np.eye(6)[label]) / len(label)
        np.testing.assert_allclose(batch.unlabelled.views["strong"].grad, gradient, rtol=1e-10, atol=1e-12)
        finish(method)
        np.testing.assert_allclose(policy.average.value, average, rtol=1e-12)
        accepted += mask.sum()
    assert 0 < accepted < 24 * len(STEPS)
    assert policy.thresholds().tolist() == [0.6] * 6


def test_without_strength_it_is_fixmatch() -> None:
    policy = DebiasedThreshold(strength=0.0)
    policy.prepare(problem_of(3))
    probs = torch.tensor([[0.97, 0.02, 0.01], [0.4, 0.3, 0.3]])
    found = policy(Predictions(probs, torch.arange(2)))
    assert found.weight.tolist() == [1, 0]
    assert found.margin.tolist() == [0, 0, 0]


def test_a_probability_of_0_stays_one() -> None:
    policy = DebiasedThreshold(threshold=0.9)
    policy.prepare(problem_of(2))
    found = policy(Predictions(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.arange(2)))
    assert found.confidence.tolist() == [1, 1]
    assert found.margin.isfinite().all()


def test_a_step_that_is_not_applied_leaves_it_as_it_was() -> None:
    policy = DebiasedThreshold()
    policy.prepare(problem_of(2))
    before = policy.average.value.clone()
    policy(Predictions(torch.full((4, 2), float("nan")), torch.arange(4)))
    finish(policy, is_applied=False)
    assert torch.equal(policy.average.value, before)
    assert policy(Predictions(torch.full((4, 2), 0.5), torch.arange(4))).margin.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1}, "decay=1 is not legal"),
        ({"strength": -1}, "strength=-1 is not legal"),
        ({"threshold": 0}, "threshold=0 is not legal"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        DebiasedThreshold(**options)
    assert str(caught.value).startswith(message)
