"""CReST+'s equations against loops."""

from __future__ import annotations

import pytest
import torch

from layermatch.functional import alignment_power, tempered_distribution


def test_powers_go_from_one_to_the_smallest() -> None:
    assert [alignment_power(g, generations=3, smallest=0.2) for g in range(3)] == pytest.approx([1.0, 0.6, 0.2])
    assert alignment_power(0, generations=1, smallest=0.2) == 1.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_power_makes_a_distribution_more_even(power: float) -> None:
    shares = [0.7, 0.2, 0.1]
    powers = [share**power for share in shares]
    found = tempered_distribution(torch.tensor(shares, dtype=torch.float64), power)
    assert found.tolist() == pytest.approx([each / sum(powers) for each in powers], rel=1e-12)
