"""Divergences of learnt labels against plain numpy, and their gradients against automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slopes
from torch import Tensor

from layermatch.errors import UserError
from layermatch.functional import label_divergence, label_gradient, prediction_entropy
from layermatch.functional.decipher import DIVERGENCES

Array = NDArray[np.float64]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def divergence(logits: Array, label: Array, kind: str) -> float:
    f, y = softmax(logits), softmax(label)
    total = 0.0
    for k in range(len(f)):
        if kind == "kl_reverse":
            total += f[k] * (np.log(f[k]) - np.log(y[k]))
        elif kind == "kl":
            total += y[k] * (np.log(y[k]) - np.log(f[k]))
        else:
            total += (y[k] - f[k]) ** 2
    return total


def inputs(num_classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    return tuple(3 * torch.randn(5, num_classes, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("num_classes", [2, 6])
def test_value_and_gradients(kind: str, num_classes: int) -> None:
    logits, labels = inputs(num_classes)
    logits[1] = labels[1]  # a label that is reached
    labels[2] = 0.0  # ties
    logits.requires_grad_()
    by_label = labels.clone().requires_grad_()
    found = label_divergence(logits, by_label, kind=kind)
    pairs = list(zip(logits.detach().numpy(), labels.numpy(), strict=True))
    np.testing.assert_allclose(found.detach().numpy(), [divergence(f, y, kind) for f, y in pairs], atol=1e-12)
    expected_logits, expected_labels = torch.autograd.grad(found.sum(), [logits, by_label])
    torch.testing.assert_close(label_gradient(logits, labels, kind=kind), expected_labels, rtol=1e-9, atol=1e-12)
    for row, (f, y) in enumerate(pairs):
        wanted = slopes(lambda moved: divergence(moved, y, kind), f)  # noqa: B023 -- used within this turn
        assert expected_logits[row].numpy() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_half_precision_and_certain_predictions_stay_finite(kind: str) -> None:
    logits = torch.tensor([[200.0, -200.0]], dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([[0.0, 10.0]])
    found = label_divergence(logits, labels, kind=kind) + prediction_entropy(logits)
    assert found.dtype == torch.float32
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert found.isfinite().all()
    assert grad.isfinite().all()
    assert label_gradient(logits, labels, kind=kind).isfinite().all()


def test_entropy() -> None:
    logits, _ = inputs(4)
    expected = [-(softmax(z) * np.log(softmax(z))).sum() for z in logits.numpy()]
    np.testing.assert_allclose(prediction_entropy(logits).numpy(), expected, rtol=1e-12)


def test_an_unknown_divergence_is_refused() -> None:
    for function in (label_divergence, label_gradient):
        with pytest.raises(UserError, match="divergence='js' is not legal: choose one of kl_reverse, kl, mse"):
            function(torch.zeros(1, 2), torch.zeros(1, 2), kind="js")
