"""CoMatch's equations against loops in float64, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slopes
from torch import Tensor

from layermatch.functional import graph_contrast_loss, memory_smoothed, pseudo_label_graph, scaled_similarities

Floats = NDArray[np.float64]

#: N, M, D, K
SIZES = [(1, 1, 2, 2), (5, 7, 3, 4), (6, 3, 8, 10)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def unit(*shape: int, seed: int = 0) -> Tensor:
    drawn = draw(*shape, seed=seed)
    return drawn / drawn.norm(dim=1, keepdim=True)


def softmax(row: Floats) -> Floats:
    return np.exp(row) / np.exp(row).sum()


def smoothed_by_loops(probs: Floats, keys: Floats, bank_keys: Floats, bank_probs: Floats) -> Floats:
    result = np.zeros_like(probs)
    for i, key in enumerate(keys):
        weights = softmax(np.array([key @ other for other in bank_keys]) / 0.2)
        result[i] = 0.9 * probs[i] + 0.1 * sum(w * p for w, p in zip(weights, bank_probs, strict=True))
    return result


def graph_by_loops(probs: Floats, threshold: float) -> Floats:
    graph = np.zeros((len(probs), len(probs)))
    for i, first in enumerate(probs):
        for j, second in enumerate(probs):
            similarity = 1.0 if i == j else first @ second
            graph[i, j] = similarity if similarity >= threshold else 0
        graph[i] /= graph[i].sum()
    return graph


def contrast_by_loops(first: Floats, second: Floats, graph: Floats, temperature: float) -> float:
    total = 0.0
    for key, row in zip(first, graph, strict=True):
        similar = softmax(np.array([key @ other for other in second]) / temperature)
        total -= sum(w * math.log(s + 1e-7) for w, s in zip(row, similar, strict=True))
    return total / len(first)


@pytest.mark.parametrize(("num", "rows", "width", "num_classes"), SIZES)
def test_the_bank_smooths_as_loops_do(num: int, rows: int, width: int, num_classes: int) -> None:
    probs, bank_probs = draw(num, num_classes).softmax(1), draw(rows, num_classes, seed=1).softmax(1)
    keys, bank_keys = unit(num, width), unit(rows, width, seed=2)
    found = memory_smoothed(probs, keys, bank_keys, bank_probs, alpha=0.9, temperature=0.2)
    expected = smoothed_by_loops(probs.numpy(), keys.numpy(), bank_keys.numpy(), bank_probs.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, rtol=1e-12)


def test_an_empty_bank_takes_its_share_away() -> None:
    probs = draw(3, 4).softmax(1)
    found = memory_smoothed(probs, unit(3, 2), torch.zeros(5, 2), torch.zeros(5, 4), alpha=0.9, temperature=0.2)
    torch.testing.assert_close(found, 0.9 * probs)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("num", "num_classes"), [(1, 2), (6, 2), (7, 10)])
def test_the_graph_is_that_of_loops(num: int, num_classes: int, threshold: float) -> None:
    probs = (4 * draw(num, num_classes)).softmax(1)
    found = pseudo_label_graph(probs, threshold=threshold)
    np.testing.assert_allclose(found.numpy(), graph_by_loops(probs.numpy(), threshold), rtol=1e-12, atol=1e-15)


def test_edges_at_the_threshold_count_and_every_image_has_one_to_itself() -> None:
    half = torch.tensor([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]], requires_grad=True)
    graph = pseudo_label_graph(half, threshold=0.5)
    torch.testing.assert_close(graph, torch.tensor([[2, 1, 1], [1, 2, 1], [1, 1, 2]]) / 4)
    assert not graph.requires_grad
    torch.testing.assert_close(pseudo_label_graph(half, threshold=0.9), torch.eye(3))


@pytest.mark.parametrize(("num", "width"), [(1, 2), (5, 3), (8, 4)])
def test_the_contrast_and_its_gradients_are_those_of_loops(num: int, width: int) -> None:
    first, second = unit(num, width).requires_grad_(), unit(num, width, seed=1).requires_grad_()
    graph = pseudo_label_graph((3 * draw(num, 4)).softmax(1), threshold=0.3)
    loss = graph_contrast_loss(first, second, graph, temperature=0.2)
    arrays = first.detach().numpy(), second.detach().numpy(), graph.numpy()
    assert loss.item() == pytest.approx(contrast_by_loops(*arrays, 0.2), rel=1e-12)
    loss.backward()
    expected = slopes(lambda moved: contrast_by_loops(moved, arrays[1], arrays[2], 0.2), arrays[0])
    np.testing.assert_allclose(first.grad.numpy(), expected, rtol=1e-6, atol=1e-8)
    expected = slopes(lambda moved: contrast_by_loops(arrays[0], moved, arrays[2], 0.2), arrays[1])
    np.testing.assert_allclose(second.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_bf16_embeddings_and_autocast_are_computed_in_float32() -> None:
    first, second = unit(6, 4).bfloat16(), unit(6, 4, seed=1).bfloat16()
    graph = pseudo_label_graph((3 * draw(6, 4)).softmax(1).float(), threshold=0.3)
    expected = graph_contrast_loss(first.double(), second.double(), graph.double(), temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = graph_contrast_loss(first, second, graph, temperature=0.1)
        assert scaled_similarities(first, second, temperature=0.1).dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_no_image_is_no_loss() -> None:
    keys = torch.zeros(0, 3, requires_grad=True)
    loss = graph_contrast_loss(keys, keys, torch.zeros(0, 0), temperature=0.2)
    loss.backward()
    assert loss == 0
