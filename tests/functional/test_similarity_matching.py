"""SimMatch's equations against loops in float64, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slopes
from torch import Tensor

from layermatch.functional import aggregated, instance_similarity_loss, similarity_distribution, unfolded

Floats = NDArray[np.float64]

#: N, M, D, K
SIZES = [(1, 1, 2, 2), (4, 9, 3, 3), (6, 5, 4, 10)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = draw(*shape, seed=seed)
    return drawn / drawn.norm(dim=1, keepdim=True)


def distribution_by_loops(keys: Floats, bank: Floats, temperature: float) -> Floats:
    rows = [[math.exp(key @ other / temperature) for other in bank] for key in keys]
    return np.array([[value / sum(row) for value in row] for row in rows])


def instance_by_loops(keys: Floats, bank: Floats, target: Floats, temperature: float) -> float:
    similar = distribution_by_loops(keys, bank, temperature)
    return -sum(
        t * math.log(s) for row, of in zip(target, similar, strict=True) for t, s in zip(row, of, strict=True)
    ) / len(keys)


@pytest.mark.parametrize(("num", "rows", "width", "num_classes"), SIZES)
def test_all_equations_are_those_of_loops(num: int, rows: int, width: int, num_classes: int) -> None:
    keys, strong, bank = unit(num, width), unit(num, width, seed=1).requires_grad_(), unit(rows, width, seed=2)
    probs = draw(num, num_classes).softmax(1)
    label = torch.arange(rows) % max(num_classes - 1, 1)  # the last class is absent
    similarity = similarity_distribution(keys, bank, temperature=0.1)
    expected = distribution_by_loops(keys.numpy(), bank.numpy(), 0.1)
    np.testing.assert_allclose(similarity.numpy(), expected, rtol=1e-12)

    target, of_classes = np.zeros((num, rows)), np.zeros((num, num_classes))
    for i in range(num):
        for m in range(rows):
            target[i, m] = expected[i, m] * probs[i, label[m]]
            of_classes[i, label[m]] += expected[i, m]
        target[i] /= target[i].sum()
    np.testing.assert_allclose(unfolded(similarity, probs, label).numpy(), target, rtol=1e-12)
    np.testing.assert_allclose(aggregated(similarity, label, num_classes=num_classes).numpy(), of_classes, rtol=1e-12)

    loss = instance_similarity_loss(strong, bank, torch.tensor(target), temperature=0.1)
    arrays = strong.detach().numpy(), bank.numpy()
    assert loss.item() == pytest.approx(instance_by_loops(*arrays, target, 0.1), rel=1e-12, abs=1e-12)
    loss.backward()
    expected = slopes(lambda moved: instance_by_loops(moved, arrays[1], target, 0.1), arrays[0])
    np.testing.assert_allclose(strong.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_a_class_that_no_labelled_image_has_gives_no_target_instead_of_no_number() -> None:
    similarity = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    found = unfolded(similarity, torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.tensor([0, 0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.5, 0.5]]))


def test_bf16_embeddings_and_autocast_are_computed_in_float32() -> None:
    keys, bank = unit(5, 4).bfloat16(), unit(7, 4, seed=1).bfloat16()
    label = torch.arange(7) % 3
    expected = similarity_distribution(keys.double(), bank.double(), temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = similarity_distribution(keys, bank, temperature=0.1)
        of_classes = aggregated(similarity, label, num_classes=3)
        loss = instance_similarity_loss(keys, bank, similarity, temperature=0.1)
    assert (similarity.dtype, of_classes.dtype, loss.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(similarity.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_classes.double(), aggregated(expected, label, num_classes=3), rtol=1e-5, atol=1e-6)


def test_targets_carry_no_gradient_and_no_image_is_no_loss() -> None:
    keys = torch.zeros(0, 3, requires_grad=True)
    assert not similarity_distribution(keys, torch.eye(3), temperature=0.1).requires_grad
    loss = instance_similarity_loss(keys, torch.eye(3), torch.zeros(0, 3), temperature=0.1)
    loss.backward()
    assert loss == 0
