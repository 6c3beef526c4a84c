"""Logistic regression: the optimum of its own objective, and a regularisation that held-out labels choose."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from layermatch.functional import logistic_regression


def problem(count: int, width: int, *, num_classes: int = 3, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) % num_classes
    centres = torch.randn(num_classes, width, generator=generator, dtype=torch.float64)
    return 5 + centres[label] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64), label


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize(("count", "width"), [(30, 4), (12, 40)])
def test_the_gradient_of_the_objective_is_zero(count: int, width: int, num_classes: int) -> None:
    """Of the objective as the docstring has it, written out once more; also where images are fewer than features."""
    features, label = problem(count, width, num_classes=num_classes)
    found = logistic_regression(features, label, num_classes=num_classes)
    scale = (features - features.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    weight = (found.weight.double() * scale).requires_grad_()
    bias = found.bias.double().requires_grad_()
    logits = features / scale @ weight.T + bias
    value = found.strength * F.cross_entropy(logits, label, reduction="sum") + weight.square().sum() / 2
    gradients = torch.autograd.grad(value, [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 2e-3 * max(1.0, found.strength)


def test_noisy_features_are_regularised_more_than_clear_ones() -> None:
    clear = logistic_regression(*problem(60, 5, spread=0.05), num_classes=3)
    noisy = logistic_regression(*problem(60, 5, spread=5.0), num_classes=3)
    assert noisy.strength < clear.strength


def test_the_unit_of_the_features_does_not_matter() -> None:
    features, label = problem(30, 4)
    one, other = (logistic_regression(factor * features, label, num_classes=3) for factor in (1.0, 1000.0))
    assert one.strength == other.strength
    torch.testing.assert_close(one.weight, other.weight * 1000, rtol=1e-2, atol=1e-2)


def test_one_label_a_class_has_nothing_to_hold_out() -> None:
    features, label = problem(3, 8)
    found = logistic_regression(features, label, num_classes=3)
    assert found.strength == 1.0
    assert (features.float() @ found.weight.T + found.bias).argmax(dim=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("present", [[0, 2], [1], [1, 2, 3]])
def test_a_class_without_a_label_is_never_the_answer(present: list[int]) -> None:
    features, position = problem(30, 4, num_classes=len(present))
    label = torch.tensor(present)[position]
    found = logistic_regression(features, label, num_classes=5)
    anywhere = 100 * torch.randn(500, 4, generator=torch.Generator().manual_seed(1)).double()
    logits = anywhere.float() @ found.weight.T + found.bias
    assert set(logits.argmax(dim=1).tolist()) <= set(present)
    right = (features.float() @ found.weight.T + found.bias).argmax(dim=1) == label
    assert right.float().mean() > 0.7


def test_the_same_data_give_the_same_classifier() -> None:
    one, other = (logistic_regression(*problem(40, 6), num_classes=3) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
