"""CReST's equations against loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import added_labels, alignment_power, sampling_rates, tempered_distribution


@pytest.mark.parametrize("alpha", [0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("counts", [[100, 50, 10, 1], [1, 10, 50, 100], [7, 3], [30, 30, 5], [9, 0, 4]])
def test_rates_are_those_of_the_reversed_ranks(counts: list[int], alpha: float) -> None:
    ranked = sorted(range(len(counts)), key=lambda k: -counts[k])
    expected = [0.0] * len(counts)
    for rank, k in enumerate(ranked):
        expected[k] = (counts[ranked[len(counts) - 1 - rank]] / counts[ranked[0]]) ** alpha
    found = sampling_rates(torch.tensor(counts, dtype=torch.float64), alpha=alpha)
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[ranked[-1]] == 1


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_the_most_confident_of_each_class_are_added(num_classes: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = 2 * torch.randn(60, num_classes, dtype=torch.float64, generator=generator)
    logits[:, -1] -= 100  # nobody is of the last class
    probs = logits.softmax(dim=1)
    probs[7] = probs[3]  # equally sure: the first of the two goes first
    rates = torch.full((num_classes,), rate, dtype=torch.float64)
    rates[0] = 1.0
    found = added_labels(probs, rates)
    expected = np.full(60, -1)
    for k in range(num_classes):
        members = [u for u in range(60) if int(np.argmax(probs[u].numpy())) == k]
        members.sort(key=lambda u: -float(probs[u].max()))  # stable
        for u in members[: int(float(rates[k]) * len(members) + 1e-6)]:
            expected[u] = k
    assert found.tolist() == expected.tolist()


def test_powers_go_from_one_to_the_smallest() -> None:
    assert [alignment_power(g, generations=3, smallest=0.2) for g in range(3)] == pytest.approx([1.0, 0.6, 0.2])
    assert alignment_power(0, generations=1, smallest=0.2) == 1.0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_power_makes_a_distribution_more_even(power: float) -> None:
    shares = [0.7, 0.2, 0.1]
    powers = [share**power for share in shares]
    found = tempered_distribution(torch.tensor(shares, dtype=torch.float64), power)
    assert found.tolist() == pytest.approx([each / sum(powers) for each in powers], rel=1e-12)
