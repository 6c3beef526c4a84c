"""Dash's equations, against loops."""

from __future__ import annotations

import math

import pytest
import torch

from layermatch.functional import cross_entropy_of_probabilities, falling_threshold


def test_the_threshold_falls_to_its_limit() -> None:
    first = torch.tensor(0.9, dtype=torch.float64)
    for k in range(20):
        found = falling_threshold(first, torch.tensor(k), scale=1.0001, gamma=1.27, lowest=0.05)
        assert found.item() == pytest.approx(max(1.0001 * 0.9 / 1.27**k, 0.05), rel=1e-12)
    assert found.item() == 0.05


def test_cross_entropy_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    probs, target = (torch.randn(9, 4, generator=generator, dtype=torch.float64).softmax(dim=1) for _ in range(2))
    found = cross_entropy_of_probabilities(probs, target)
    for p, q, value in zip(probs.tolist(), target.tolist(), found.tolist(), strict=True):
        assert value == pytest.approx(-math.fsum(b * math.log(a) for a, b in zip(p, q, strict=True)), rel=1e-12)


def test_cross_entropy_of_certain_rows() -> None:
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    found = cross_entropy_of_probabilities(probs, target)
    assert found.tolist() == [0.0, math.inf, pytest.approx(math.log(2))]
