"""FreeMatch's equations against loops in numpy, in value and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.slopes import slope

from layermatch.functional import class_histogram, fairness_loss, self_adaptive_thresholds


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def reference(logits: Any, accepted: Any, probs: Any, histogram: Any) -> float:
    """One class and one sample at a time."""
    num_classes, rows = logits.shape[1], [row for row, counts in zip(softmax(logits), accepted, strict=True) if counts]
    if not rows:
        return 0.0
    mean = [sum(row[c] for row in rows) / len(rows) for c in range(num_classes)]
    counts = [sum(int(np.argmax(row)) == c for row in rows) for c in range(num_classes)]
    found = [m * len(rows) / n if n else 0.0 for m, n in zip(mean, counts, strict=True)]
    wanted = [p / h if h else 0.0 for p, h in zip(probs, histogram, strict=True)]
    logs = [np.log(b / sum(found) + 1e-12) for b in found]
    return float(sum(a / sum(wanted) * b for a, b in zip(wanted, logs, strict=True)))


def random_case(num_classes: int) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(num_classes)
    probs, histogram = rng.dirichlet(np.ones(num_classes)), rng.dirichlet(np.ones(num_classes))
    return rng.normal(size=(20, num_classes)) * 2, rng.random(20) < 0.6, probs, histogram


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_the_fairness_loss_and_its_gradient(num_classes: int) -> None:
    logits, accepted, probs, histogram = random_case(num_classes)
    given = torch.tensor(logits, requires_grad=True)
    weight = torch.tensor(accepted).double() * 0.5  # any weight above 0 is accepted
    loss = fairness_loss(given, weight, torch.tensor(probs), torch.tensor(histogram))
    assert loss.item() == pytest.approx(reference(logits, accepted, probs, histogram), rel=1e-9)
    loss.backward()
    for i, k in ((0, 0), (3, 1), (7, num_classes - 1), (12, 0)):
        wanted = slope(lambda moved: reference(moved, accepted, probs, histogram), logits, (i, k))
        assert given.grad[i, k].item() == pytest.approx(wanted, rel=1e-4, abs=1e-8)


def test_nothing_accepted_gives_0_and_a_gradient_of_0() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    uniform = torch.full((3,), 1 / 3)
    loss = fairness_loss(logits, torch.zeros(5), uniform, uniform)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
    empty = torch.zeros(0, 3, requires_grad=True)
    fairness_loss(empty, torch.zeros(0), uniform, uniform).backward()
    assert empty.grad.shape == (0, 3)


def test_a_class_that_no_pseudo_label_ever_had_is_not_wanted() -> None:
    logits, probs = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), torch.tensor([0.5, 0.25, 0.25])
    loss = fairness_loss(logits, torch.ones(2), probs, torch.tensor([0.75, 0.25, 0.0]))
    expected = reference(logits.numpy(), [1, 1], probs.tolist(), [0.75, 0.25, 0.0])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() > -2  # the class that is absent, whose logarithm is -27.6, has no weight


def test_bf16_logits_are_computed_in_float32() -> None:
    logits, accepted, probs, histogram = random_case(4)
    given = torch.tensor(logits).bfloat16()
    loss = fairness_loss(given, torch.tensor(accepted).float(), torch.tensor(probs), torch.tensor(histogram))
    expected = reference(given.float().numpy(), accepted, probs, histogram)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.9, 0.95)])
def test_thresholds(low: float, high: float) -> None:
    probs = np.array([0.2, 0.5, 0.3])
    found = self_adaptive_thresholds(torch.tensor(0.8), torch.tensor(probs), low=low, high=high)
    expected = [min(max(0.8 * p / 0.5, low), high) for p in probs]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_histogram_counts_weights() -> None:
    label = torch.tensor([0, 2, 2, 0])
    torch.testing.assert_close(class_histogram(label, 3), torch.tensor([0.5, 0.0, 0.5]))
    weighted = class_histogram(label, 3, torch.tensor([1.0, 0.0, 3.0, 0.0]))
    torch.testing.assert_close(weighted, torch.tensor([0.25, 0.0, 0.75]))
    assert class_histogram(label, 3, torch.zeros(4)).tolist() == [0, 0, 0]
