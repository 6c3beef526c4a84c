"""SoftMatch's weight against a loop, and where the Gaussian has no width."""

from __future__ import annotations

import math

import pytest
import torch

from layermatch.functional import truncated_gaussian


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_are_1_from_the_mean_on_and_fall_off_below(dtype: torch.dtype) -> None:
    confidence = torch.tensor([0.2, 0.5, 0.7, 0.75, 1.0], dtype=dtype)
    mean, variance = torch.tensor(0.7, dtype=dtype), torch.tensor(0.03, dtype=dtype)
    found = truncated_gaussian(confidence, mean, variance)
    for weight, c in zip(found.tolist(), confidence.tolist(), strict=True):
        below = min(c - mean.item(), 0)
        assert weight == pytest.approx(math.exp(-(below**2) / (2 * variance.item())), rel=4 * torch.finfo(dtype).eps)
    assert found[-1] == 1
    assert found[0] < 0.1


def test_without_a_variance_it_is_a_step() -> None:
    found = truncated_gaussian(torch.tensor([0.4, 0.5, 0.6]), torch.tensor(0.5), torch.tensor(0.0))
    assert found.tolist() == [0, 1, 1]


def test_the_gradient_is_that_of_the_gaussian() -> None:
    confidence = torch.tensor([0.4, 0.9], dtype=torch.float64, requires_grad=True)
    weight = truncated_gaussian(confidence, torch.tensor(0.7).double(), torch.tensor(0.1).double())
    weight.sum().backward()
    torch.testing.assert_close(confidence.grad[0], (weight[0] * (0.7 - 0.4) / 0.1).detach(), rtol=1e-6, atol=0)
    assert confidence.grad[1] == 0
