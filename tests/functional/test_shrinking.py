"""ShrinkMatch's equations against a loop over the ranks, in float64, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slopes

from layermatch.functional import shrink_loss, shrunk_classes

Floats = NDArray[np.float64]


def kept_by_loops(probs: Floats, threshold: float) -> tuple[list[int], bool]:
    """The classes that stay of one image, the first of them its own, and whether they make it certain."""
    order = sorted(range(len(probs)), key=lambda k: -probs[k])
    for removed in range(2, len(probs)):
        kept = [order[0], *order[removed:]]
        if probs[order[0]] / sum(probs[k] for k in kept) >= threshold:
            return kept, True
    return ([order[0], order[-1]] if len(probs) > 2 else order), False


def loss_by_loops(logits: Floats, probs: Floats, uncertain: NDArray[np.bool_], threshold: float) -> float:
    total = 0.0
    for row, p, counts in zip(logits, probs, uncertain, strict=True):
        kept, reached = kept_by_loops(p, threshold)
        if counts and reached:
            total += max(p) * (math.log(sum(math.exp(row[k]) for k in kept)) - row[kept[0]])
    return total / len(probs)


@pytest.mark.parametrize("uncertain", ["all", "some", "none"])
@pytest.mark.parametrize("num_classes", [2, 3, 6, 30])
@pytest.mark.parametrize("threshold", [0.5, 0.95, 1.0])
def test_classes_values_and_gradients_are_those_of_loops(threshold: float, num_classes: int, uncertain: str) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    probs = (2 * torch.randn(12, num_classes, generator=generator, dtype=torch.float64)).softmax(1)
    logits = torch.randn(12, num_classes, generator=generator, dtype=torch.float64).requires_grad_()
    counts = {"all": torch.ones(12), "some": torch.arange(12) % 2, "none": torch.zeros(12)}[uncertain].bool()
    kept, reached = shrunk_classes(probs, threshold=threshold)
    for row, is_certain, p in zip(kept, reached, probs.numpy(), strict=True):
        expected, was_reached = kept_by_loops(p, threshold)
        assert sorted(expected) == row.nonzero()[:, 0].tolist()
        assert is_certain.item() == was_reached
    loss = shrink_loss(logits, probs, counts, threshold=threshold)
    arrays = logits.detach().numpy(), probs.numpy(), counts.numpy()
    assert loss.item() == pytest.approx(loss_by_loops(*arrays, threshold), rel=1e-12, abs=1e-15)
    loss.backward()
    expected_grad = slopes(lambda moved: loss_by_loops(moved, *arrays[1:], threshold), arrays[0])
    np.testing.assert_allclose(logits.grad.numpy(), expected_grad, rtol=1e-6, atol=1e-9)


def test_of_equal_probabilities_the_first_class_is_kept() -> None:
    kept, reached = shrunk_classes(torch.tensor([[0.4, 0.4, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]]), threshold=0.66)
    assert kept.tolist() == [[True, False, True, True], [True, False, False, True]]
    assert reached.tolist() == [True, False]


def test_two_classes_leave_nothing_to_take_out_and_no_image_is_no_loss() -> None:
    logits = torch.randn(4, 2, requires_grad=True)
    loss = shrink_loss(logits, torch.full((4, 2), 0.5), torch.ones(4).bool(), threshold=0.95)
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()
    assert shrink_loss(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0).bool(), threshold=0.95) == 0


def test_bf16_logits_are_computed_in_float32() -> None:
    probs = torch.tensor([[0.5, 0.47, 0.02, 0.01]])
    logits = torch.tensor([[1.0, 2.0, 0.3, -0.1]]).bfloat16()
    found = shrink_loss(logits, probs, torch.ones(1).bool(), threshold=0.9)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, shrink_loss(logits.float(), probs, torch.ones(1).bool(), threshold=0.9))
