"""Distribution alignment against a loop in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.slopes import slopes

from layermatch.functional import align_distribution


def random_probs(num: int, num_classes: int, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_classes)
    return (3 * torch.randn(num, num_classes, generator=generator, dtype=torch.float64)).softmax(dim=1).to(dtype)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_each_row_is_scaled_and_normalised(num_classes: int, epsilon: float) -> None:
    probs, target = random_probs(20, num_classes), random_probs(1, num_classes)[0]
    average = probs.mean(dim=0)
    found = align_distribution(probs, target, average, epsilon=epsilon)
    for row, expected in zip(found.numpy(), probs.numpy(), strict=True):
        scaled = [
            p * (t + epsilon) / (a + epsilon) for p, t, a in zip(expected, target.numpy(), average.numpy(), strict=True)
        ]
        np.testing.assert_allclose(row, np.array(scaled) / sum(scaled), rtol=1e-12)


def test_an_average_like_the_target_changes_nothing() -> None:
    probs = random_probs(20, 5)
    torch.testing.assert_close(align_distribution(probs, probs.mean(dim=0), probs.mean(dim=0)), probs)


def test_the_gradient_is_that_of_the_plain_formula() -> None:
    probs, target, average = random_probs(6, 4).requires_grad_(), random_probs(1, 4)[0], random_probs(9, 4).mean(dim=0)
    coefficients = torch.arange(24, dtype=torch.float64).view(6, 4)
    (found,) = torch.autograd.grad((align_distribution(probs, target, average) * coefficients).sum(), probs)

    def plain(moved: np.ndarray) -> float:
        scaled = moved * (target / average).numpy()
        return (scaled / scaled.sum(axis=1, keepdims=True) * coefficients.numpy()).sum()

    assert found.numpy() == pytest.approx(slopes(plain, probs.detach().numpy()), rel=1e-5, abs=1e-7)


def test_a_class_that_was_never_predicted_stays_at_0() -> None:
    probs = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    found = align_distribution(probs, torch.full((3,), 1 / 3), torch.tensor([0.75, 0.25, 0.0]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]))


def test_a_row_that_has_nothing_left_stays_as_it_was() -> None:
    probs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = align_distribution(probs, torch.tensor([0.0, 1.0]), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_numbers_stay_finite_and_the_dtype_stays(dtype: torch.dtype) -> None:
    probs = torch.tensor([[1 - 1e-30, 1e-30], [1.0, 0.0]], dtype=dtype)
    average = probs.float().mean(dim=0)
    found = align_distribution(probs, torch.tensor([0.5, 0.5]), average)
    assert found.dtype == dtype
    # The second class is predicted in the first row alone, so all that there is of it is there.
    torch.testing.assert_close(found.float(), torch.tensor([[1 / 3, 2 / 3], [1.0, 0.0]]), rtol=1e-2, atol=1e-6)
