"""The rates of ABC's masks, against a loop."""

from __future__ import annotations

import pytest
import torch

from layermatch.functional import annealed_rates, balancing_rates


@pytest.mark.parametrize("counts", [[100, 25, 50], [7, 7], [1500, 899, 15, 15], [5, 0, 20], [0, 3]])
def test_rates_are_those_of_the_formula(counts: list[int]) -> None:
    smallest = min(count for count in counts if count)
    expected = [smallest / count if count else 1.0 for count in counts]
    assert balancing_rates(torch.tensor(counts)).tolist() == pytest.approx(expected)
    assert balancing_rates(torch.tensor(counts, dtype=torch.float64)).dtype == torch.float64


def test_as_many_of_each_class_are_kept() -> None:
    counts = torch.tensor([200.0, 50.0, 20.0])
    assert (balancing_rates(counts) * counts).tolist() == pytest.approx([20.0] * 3)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_rates_fall_from_one(progress: float) -> None:
    rates = [0.1, 0.5, 1.0]
    expected = [1 - progress * (1 - rate) for rate in rates]
    assert annealed_rates(torch.tensor(rates), progress).tolist() == pytest.approx(expected)
