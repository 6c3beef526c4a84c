"""Sharpening, mixing and soft cross-entropy against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layermatch.functional import larger_part, mix, probabilities, sharpen, soft_cross_entropy

Floats = NDArray[np.float64]


def sharpen_reference(probs: Floats, temperature: float) -> Floats:
    out = np.zeros_like(probs)
    for n, row in enumerate(probs):
        powers = [p ** (1 / temperature) for p in row]
        out[n] = [value / math.fsum(powers) for value in powers]
    return out


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_sharpening_is_that_of_a_loop_and_divides_logits(temperature: float, num_classes: int) -> None:
    logits = torch.randn(20, num_classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sharpen(logits.softmax(dim=1), temperature)
    np.testing.assert_allclose(found, sharpen_reference(logits.softmax(dim=1).numpy(), temperature), rtol=1e-12)
    torch.testing.assert_close(found, (logits / temperature).softmax(dim=1))


def test_sharpening_of_ties_absent_classes_and_a_cold_temperature() -> None:
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(sharpen(probs, 1e-3), expected)
    # Powers of 1 / T would all be 0 in float32.
    many = torch.full((1, 1000), 1e-3)
    torch.testing.assert_close(sharpen(many, 0.01), many)


@pytest.mark.parametrize("per_sample", [True, False])
def test_mixing_is_that_of_a_loop_in_value_and_gradient(per_sample: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    coefficients = torch.rand((6,) if per_sample else (), generator=generator, dtype=torch.float64)
    order = torch.randperm(6, generator=generator)
    outer = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)
    found = mix(values, coefficients, order)
    (found * outer).sum().backward()
    expected, gradient = np.zeros((6, 2, 3)), np.zeros((6, 2, 3))
    for i in range(6):
        share = float(coefficients[i] if per_sample else coefficients)
        expected[i] = share * values[i].detach().numpy() + (1 - share) * values[order[i]].detach().numpy()
        gradient[i] += share * outer[i].numpy()
        gradient[order[i]] += (1 - share) * outer[i].numpy()
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-12)
    np.testing.assert_allclose(values.grad, gradient, rtol=1e-12, atol=1e-15)


def test_the_first_image_prevails() -> None:
    draws = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    torch.testing.assert_close(larger_part(draws), torch.tensor([1.0, 0.8, 0.5, 0.9, 1.0]))


def test_a_coefficient_of_one_mixes_nothing_and_a_pair_with_itself_is_itself() -> None:
    values = torch.randn(4, 3)
    assert torch.equal(mix(values, torch.ones(4), torch.tensor([3, 2, 1, 0])), values)
    torch.testing.assert_close(mix(values, torch.tensor(0.6), torch.arange(4)), values)


def test_mixed_bf16_images_stay_bf16() -> None:
    values = torch.randn(4, 3).bfloat16()
    assert mix(values, torch.rand(4), torch.tensor([3, 2, 1, 0])).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_soft_cross_entropy_is_that_of_a_loop_in_value_and_gradient(dtype: torch.dtype, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = (3 * torch.randn(5, num_classes, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    target = torch.randn(5, num_classes, generator=generator, dtype=torch.float64).softmax(dim=1)
    target[0] = torch.eye(num_classes, dtype=torch.float64)[0]  # one-hot
    target = target if dtype == torch.float64 else target.float()
    loss = soft_cross_entropy(logits, target)
    loss.backward()
    value, gradient = 0.0, np.zeros((5, num_classes))
    for n, (row, wanted) in enumerate(zip(logits.detach().double().numpy(), target.double().numpy(), strict=True)):
        log_sum = math.log(math.fsum(math.exp(x) for x in row))
        value += math.fsum(q * (log_sum - x) for x, q in zip(row, wanted, strict=True)) / 5
        gradient[n] = [(math.exp(x - log_sum) * sum(wanted) - q) / 5 for x, q in zip(row, wanted, strict=True)]
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    assert loss.item() == pytest.approx(value, rel=min(tolerance, 1e-5))
    np.testing.assert_allclose(logits.grad.double(), gradient, rtol=tolerance, atol=tolerance / 100)


def test_a_guess_has_no_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    assert not sharpen(probabilities(logits), 0.5).requires_grad
