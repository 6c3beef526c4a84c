"""A temperature for probabilities, against a loop."""

from __future__ import annotations

import math

import pytest
import torch

from layermatch.functional import probabilities, sharpen


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_each_probability_is_raised_to_a_power(temperature: float, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = 3 * torch.randn(20, num_classes, generator=generator, dtype=torch.float64)
    found = sharpen(probabilities(logits), temperature)
    for row, sharpened in zip(probabilities(logits).tolist(), found.tolist(), strict=True):
        powers = [p ** (1 / temperature) for p in row]
        assert sharpened == pytest.approx([power / math.fsum(powers) for power in powers], rel=1e-12)
    torch.testing.assert_close(found, (logits / temperature).softmax(dim=1), rtol=1e-12, atol=1e-12)


def test_edges() -> None:
    rows = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [1e-30, 1 - 2e-7, 2e-7]])
    found = sharpen(rows, 0.1)  # 1e-30 to the power of ten is no float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]))
    assert torch.equal(sharpen(rows[:0], 0.5), rows[:0])
    assert sharpen(probabilities(torch.randn(4, 3, dtype=torch.bfloat16)), 0.4).dtype == torch.float32
