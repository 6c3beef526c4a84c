"""The reversed gradient and the worst head's loss, against loops in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.slopes import slopes

from layermatch.functional import avoidance_loss, reversal_factor, reverse_gradient


def reference(logits: np.ndarray, label: np.ndarray) -> float:
    total = 0.0
    for row, y in zip(logits, label, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        total -= math.log(min(1.0, 1 - p[y] + 1e-6))
    return total / len(logits)


@pytest.mark.parametrize("num_classes", [2, 6])
def test_avoidance_loss_is_its_equation(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(8, num_classes, dtype=torch.float64, generator=generator).requires_grad_()
    label = torch.arange(8) % num_classes
    loss = avoidance_loss(logits, label)
    loss.backward()
    arrays = logits.detach().numpy(), label.numpy()
    assert loss.item() == pytest.approx(reference(*arrays), rel=1e-12)
    wanted = slopes(lambda moved: reference(moved, arrays[1]), arrays[0])
    np.testing.assert_allclose(logits.grad.numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_it_is_finite_where_the_class_to_avoid_is_certain_and_zero_where_it_is_out_of_the_question() -> None:
    logits = torch.tensor([[100.0, -100.0]], dtype=torch.float64, requires_grad=True)
    certain = avoidance_loss(logits, torch.tensor([0]))
    certain.backward()
    assert certain.item() == pytest.approx(-math.log(1e-6))
    assert logits.grad.isfinite().all()
    assert avoidance_loss(logits.detach(), torch.tensor([1])) == 0


def test_bf16_logits_are_computed_in_float32() -> None:
    logits = torch.tensor([[0.3, -0.2], [1.5, 0.1]], dtype=torch.bfloat16)
    found = avoidance_loss(logits, torch.tensor([0, 1]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(reference(logits.double().numpy(), np.array([0, 1])), rel=1e-6)


def test_the_gradient_is_reversed_and_the_values_stay() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(3, generator=torch.Generator().manual_seed(1))
    out = reverse_gradient(features, 0.25)
    assert torch.equal(out, features)
    (out @ weight).sum().backward()
    torch.testing.assert_close(features.grad, (-0.25 * weight).expand(4, 3))


def test_the_factor_grows_to_its_highest() -> None:
    for progress in (0.0, 0.1, 0.5, 1.0):
        expected = 2 * 0.1 / (1 + math.exp(-progress / 0.2)) - 0.1
        assert reversal_factor(progress, length=0.2, highest=0.1) == pytest.approx(expected, abs=1e-15)
    assert reversal_factor(0.0, length=0, highest=0.1) == 0.1
