"""Distributions at a temperature and divergences, against loops in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layermatch.functional import at_temperature, divergence_loss, pseudo_label_loss


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its gradient, image by image and class by class."""
    loss, grad = 0.0, np.zeros_like(logits)
    for i, row in enumerate(logits):
        q = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for k, t in enumerate(target[i]):
            if t > 0:
                loss += weight[i] * t * (np.log(t) - np.log(q[k])) / len(logits)
            grad[i, k] = weight[i] * (q[k] - t) / len(logits)
    return loss, grad


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("accepted", ["all", "none", "some", "weights"])
def test_divergence_loss_is_its_equation(accepted: str, num_classes: int) -> None:
    logits, target = drawn(12, num_classes).requires_grad_(), drawn(12, num_classes, seed=1).softmax(dim=1)
    target[0] = torch.nn.functional.one_hot(torch.tensor(0), num_classes)  # 0 log 0
    weights = {"all": torch.ones(12), "none": torch.zeros(12), "some": (torch.arange(12) % 3 == 0).float()}
    weight = weights.get(accepted, torch.linspace(0, 1, 12))
    loss = divergence_loss(logits, target, weight)
    loss.backward()
    expected, grad = reference(logits.detach().numpy(), target.numpy(), weight.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    torch.testing.assert_close(logits.grad, torch.from_numpy(grad), rtol=1e-10, atol=1e-14)


def test_with_certain_targets_it_is_the_cross_entropy() -> None:
    logits, label, weight = drawn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.linspace(0, 1, 6)
    certain = torch.nn.functional.one_hot(label, 4).double()
    torch.testing.assert_close(divergence_loss(logits, certain, weight), pseudo_label_loss(logits, label, weight))


def test_it_is_zero_where_predictions_are_the_targets_and_for_no_images() -> None:
    logits = drawn(5, 3)
    assert divergence_loss(logits, logits.softmax(dim=1), torch.ones(5)).abs() < 1e-15
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = divergence_loss(empty, torch.zeros(0, 3), torch.zeros(0))
    loss.backward()
    assert loss == 0


def test_no_gradient_reaches_the_targets_and_bf16_is_computed_in_float32() -> None:
    source = drawn(5, 3).requires_grad_()
    logits = drawn(5, 3, seed=2).bfloat16().requires_grad_()
    loss = divergence_loss(logits, source.softmax(dim=1).float(), torch.ones(5))
    loss.backward()
    assert loss.dtype == torch.float32
    assert source.grad is None
    assert logits.grad is not None
    expected = divergence_loss(logits.detach().double(), source.detach().softmax(dim=1), torch.ones(5))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("halves", [(0, 6), (6, 12)])
def test_two_halves_of_a_batch_together_are_the_batch(halves: tuple[int, int]) -> None:
    logits, target, weight = drawn(12, 3), drawn(12, 3, seed=1).softmax(dim=1), torch.linspace(0, 1, 12)
    whole = divergence_loss(logits, target, weight)
    parts = [divergence_loss(logits[a:b], target[a:b], weight[a:b]) for a, b in ((0, 6), (6, 12))]
    torch.testing.assert_close(sum(parts) / 2, whole)
    assert parts[halves[0] // 6] != whole


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_probabilities_at_a_temperature_are_the_softmax_of_divided_logits(temperature: float) -> None:
    logits = drawn(20, 5)
    found = at_temperature(logits.softmax(dim=1), temperature)
    torch.testing.assert_close(found, (logits / temperature).softmax(dim=1), rtol=1e-10, atol=1e-14)


def test_a_low_temperature_leaves_ties_and_rows_of_many_classes_whole() -> None:
    even = torch.full((1, 1000), 1e-3)
    torch.testing.assert_close(at_temperature(even, 0.05), even)
    tied = at_temperature(torch.tensor([[0.4, 0.4, 0.2]]), 0.01)
    torch.testing.assert_close(tied, torch.tensor([[0.5, 0.5, 0.0]]))
    certain = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(at_temperature(certain, 0.5), certain)
