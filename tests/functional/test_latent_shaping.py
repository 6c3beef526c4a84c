"""The equations of latent shaping at their edges; values and gradients are those of tests/methods/test_jepamatch.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.slopes import slopes

from layermatch.functional import repulsion_loss, shaping_degree, sketched_gaussian_loss, view_spread


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.5])
def test_classes_are_told_apart_from_the_warmup_to_as_long_before_the_end(warmup: float) -> None:
    degrees = [shaping_degree(t / 200, warmup=warmup) for t in range(201)]
    assert degrees == sorted(degrees)
    assert all(degree == 0 for t, degree in enumerate(degrees) if t / 200 < warmup)
    assert all(degree == pytest.approx(1) for t, degree in enumerate(degrees) if t / 200 >= 1 - warmup)
    if warmup < 0.5:
        assert degrees[100] == pytest.approx(0.5)


def test_a_gaussian_has_the_least_loss_and_its_width_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(4000, 2, generator=generator)
    directions = torch.eye(2)
    of_width = {s: sketched_gaussian_loss(s * points, directions, deviation=0.5).item() for s in (0.25, 0.5, 1.0)}
    assert of_width[0.5] < 5 < min(of_width[0.25], of_width[1.0]) / 200
    assert sketched_gaussian_loss(points + 1, directions) > 100


def test_the_gradient_of_the_sketch_is_that_of_its_differences() -> None:
    points = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    directions = torch.tensor([[0.6, 1.0], [0.8, 0.0]], dtype=torch.float64)
    sketched_gaussian_loss(points, directions, deviation=0.7).backward()

    def value(moved: np.ndarray) -> float:
        total = 0.0
        for direction in directions.T.numpy():
            for number, t in enumerate(np.linspace(0, 5, 17)):
                phi = math.exp(-((0.7 * t) ** 2) / 2)
                angles = [t * (direction @ row) for row in moved]
                real, imaginary = np.mean(np.cos(angles)) - phi, np.mean(np.sin(angles))
                total += 5 / 16 * (1 if number in {0, 16} else 2) * phi * (real**2 + imaginary**2)
        return len(moved) * total / 2

    np.testing.assert_allclose(points.grad.numpy(), slopes(value, points.detach().numpy()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("present", [[False, False, False], [True, False, False]])
def test_fewer_than_two_classes_repel_nothing(present: list[bool]) -> None:
    means = torch.zeros(3, 2, requires_grad=True)
    loss = repulsion_loss(means, torch.tensor(present))
    loss.backward()
    assert loss == 0
    assert not means.grad.any()


def test_no_point_and_no_view_give_0_with_a_gradient_of_0() -> None:
    nothing = torch.zeros(0, 3, requires_grad=True)
    total = sketched_gaussian_loss(nothing, torch.eye(3)) + view_spread(nothing[None], nothing)
    total.backward()
    assert total == 0


def test_bf16_is_computed_in_float32() -> None:
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = [
        sketched_gaussian_loss(points, torch.eye(3)),
        repulsion_loss(points, torch.ones(6, dtype=torch.bool)),
        view_spread(points[None], points * 2),
    ]
    wide = points.double()
    expected = [
        sketched_gaussian_loss(wide, torch.eye(3)),
        repulsion_loss(wide, torch.ones(6, dtype=torch.bool)),
        view_spread(wide[None], wide * 2),
    ]
    for value, other in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(other.item(), rel=1e-5)
