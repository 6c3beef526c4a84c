"""VAT's equations against loops and numerical derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layermatch.functional import divergence, fisher_product, unit_directions


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-25, 1e25])
def test_directions_have_length_one_however_small_they_were(scale: float) -> None:
    """The square of 1e-25 is 0 in float32, and that of 1e25 is infinite."""
    vectors = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = unit_directions(scale * vectors)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.ones(5))
    for row, expected in zip(found, vectors, strict=True):
        torch.testing.assert_close(row, expected / expected.norm())


def test_a_vector_of_zeros_has_no_direction_and_one_that_is_no_number_stays_none() -> None:
    vectors = torch.tensor([[0.0, 0.0], [float("nan"), 1.0]])
    found = unit_directions(vectors)
    assert not found[0].any()
    assert found[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [2, 7])
def test_the_divergence_is_that_of_a_loop_in_value_and_gradient(dtype: torch.dtype, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = (2 * torch.randn(5, num_classes, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    target = torch.randn(5, num_classes, generator=generator, dtype=torch.float64).softmax(dim=1)
    target[0] = torch.eye(num_classes, dtype=torch.float64)[1]  # 0 log 0 is 0
    target = target if dtype == torch.float64 else target.float()
    loss = divergence(logits, target)
    loss.backward()
    value, gradient = 0.0, np.zeros((5, num_classes))
    for n, (row, wanted) in enumerate(zip(logits.detach().double().numpy(), target.double().numpy(), strict=True)):
        log_sum = math.log(math.fsum(math.exp(x) for x in row))
        value += math.fsum(p * (math.log(p) - x + log_sum) for x, p in zip(row, wanted, strict=True) if p) / 5
        gradient[n] = [(math.exp(x - log_sum) - p) / 5 for x, p in zip(row, wanted, strict=True)]
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    assert loss.item() == pytest.approx(value, rel=min(tolerance, 1e-5))
    np.testing.assert_allclose(logits.grad.double(), gradient, rtol=tolerance, atol=tolerance / 10)


def test_the_divergence_from_itself_is_zero() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64)
    assert divergence(logits, logits.softmax(dim=1)).item() == pytest.approx(0, abs=1e-15)


def test_the_fisher_product_is_the_second_derivative_of_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, vector = (torch.randn(1, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    probs = logits.softmax(dim=1)
    hessian = torch.autograd.functional.hessian(lambda at: divergence(at, probs), logits).view(5, 5)
    torch.testing.assert_close(fisher_product(probs, vector), vector @ hessian)
    certain = torch.tensor([[1.0, 0.0]])
    assert not fisher_product(certain, torch.ones(1, 2)).any()
