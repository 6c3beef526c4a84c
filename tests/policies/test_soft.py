"""The soft threshold: the fixed one's mask, and probabilities as targets."""

from __future__ import annotations

import pytest
import torch

from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.parts import Problem
from layermatch.policies import FixedThreshold, Predictions, SoftThreshold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_are_the_probabilities_and_the_mask_is_that_of_the_fixed_threshold(dtype: torch.dtype) -> None:
    probs = torch.tensor([[0.95, 0.05], [0.5, 0.5], [0.0, 1.0], [0.94, 0.06]], dtype=dtype)
    predictions = Predictions(probs, torch.arange(4))
    found, hard = SoftThreshold(threshold=0.95)(predictions), FixedThreshold(threshold=0.95)(predictions)
    assert torch.equal(found.target, probs)
    for name in ("weight", "label", "confidence"):
        assert torch.equal(getattr(found, name), getattr(hard, name))
    assert found.weight.tolist() == [float(dtype == torch.float64 or probs[0, 0] >= 0.95), 0, 1, 0]


def test_it_has_thresholds_and_can_leave_masked_views_out() -> None:
    policy = SoftThreshold(threshold=0.8)
    policy.prepare(Problem(3, 8, 4, 10, (3, 32, 32), 100))
    assert policy.thresholds().tolist() == [0.8] * 3
    PseudoLabelling(policy=policy, rule=Uniform(), forward="split", skip_masked=True)
