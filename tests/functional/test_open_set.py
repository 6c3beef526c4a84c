"""One-vs-all losses and open-set targets, against loops in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.slopes import slopes

from layermatch.functional import one_vs_all_loss, one_vs_all_probabilities, open_set_targets


def pair(logits: np.ndarray, k: int) -> tuple[float, float]:
    """The probabilities that an image is not of class k, and that it is."""
    num_classes = len(logits) // 2
    no, yes = math.exp(logits[k]), math.exp(logits[num_classes + k])
    return no / (no + yes), yes / (no + yes)


def reference(logits: np.ndarray, label: np.ndarray) -> float:
    total = 0.0
    for row, y in zip(logits, label, strict=True):
        others = [-math.log(pair(row, k)[0] + 1e-8) for k in range(len(row) // 2) if k != y]
        total += -math.log(pair(row, y)[1] + 1e-8) + max(others)
    return total / len(logits)


def drawn(rows: int, num_classes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_classes)
    return 2 * torch.randn(rows, 2 * num_classes, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("num_classes", [2, 6])
def test_one_vs_all_loss_is_its_equation(num_classes: int) -> None:
    logits, label = drawn(8, num_classes).requires_grad_(), torch.arange(8) % (num_classes - 1)  # the last is absent
    loss = one_vs_all_loss(logits, label)
    loss.backward()
    array = logits.detach().numpy()
    assert loss.item() == pytest.approx(reference(array, label.numpy()), rel=1e-12)
    wanted = slopes(lambda moved: reference(moved, label.numpy()), array)
    assert logits.grad.numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_one_vs_all_loss_is_finite_where_the_head_is_certain_and_wrong() -> None:
    logits = torch.tensor([[200.0, -200.0, -200.0, 200.0]], requires_grad=True)  # says: of class 1, not of class 0
    loss = one_vs_all_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(-2 * math.log(1e-8), rel=1e-5)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_targets_are_their_equations(dtype: torch.dtype) -> None:
    logits = drawn(10, 4).to(dtype)
    probs = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).softmax(dim=1)
    outside, target = open_set_targets(probs, one_vs_all_probabilities(logits).double())
    assert one_vs_all_probabilities(logits).dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    for i, row in enumerate(logits.double().numpy()):
        expected = sum(probs[i, k].item() * pair(row, k)[0] for k in range(4))
        assert outside[i].item() == pytest.approx(expected, rel=1e-6)
        assert target[i, 4] == outside[i]
        for k in range(4):
            assert target[i, k].item() == pytest.approx(probs[i, k].item() * pair(row, k)[1], rel=1e-6)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(10, dtype=torch.float64), rtol=1e-6, atol=1e-6)
