"""Pseudo-labels and masks against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layermatch.functional import confidence_mask, entropy, hard_pseudo_labels, probabilities, with_label_noise

SIZES = [(0, 3), (1, 2), (7, 3), (64, 10), (33, 100)]
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}


def draw_logits(num: int, num_classes: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num + num_classes)
    return (4 * torch.randn(num, num_classes, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("num", "num_classes"), SIZES)
def test_probabilities_are_a_softmax_in_float32_at_least(num: int, num_classes: int, dtype: torch.dtype) -> None:
    logits = draw_logits(num, num_classes, dtype)
    expected = np.zeros((num, num_classes))
    for n, row in enumerate(logits.double().tolist()):
        total = sum(math.exp(value) for value in row)
        for k, value in enumerate(row):
            expected[n, k] = math.exp(value) / total
    probs = probabilities(logits)
    assert probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(probs.numpy(), expected, rtol=5 * TOLERANCE[dtype], atol=0)
    np.testing.assert_allclose(probs.double().sum(dim=1).numpy(), 1, rtol=5 * TOLERANCE[dtype])


def test_probabilities_carry_no_gradient() -> None:
    assert not probabilities(draw_logits(4, 3, torch.float32).requires_grad_()).requires_grad


def test_probabilities_of_huge_logits_are_finite() -> None:
    logits = torch.tensor([[1e30, 1e30, -1e30], [-1e30, 0.0, 0.0]])
    torch.testing.assert_close(probabilities(logits), torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num", "num_classes"), SIZES)
def test_hard_pseudo_labels_take_the_first_of_the_largest(num: int, num_classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    probs = torch.randint(3, (num, num_classes), generator=generator).to(dtype) / 4  # three values: ties everywhere
    label, confidence = hard_pseudo_labels(probs)
    assert label.dtype == torch.int64
    assert confidence.dtype == dtype
    assert label.shape == confidence.shape == (num,)
    for row, k, c in zip(probs.tolist(), label.tolist(), confidence.tolist(), strict=True):
        first = next(i for i, p in enumerate(row) if all(p >= other for other in row))
        assert (k, c) == (first, row[first])


def test_equal_probabilities_give_class_0() -> None:
    label, confidence = hard_pseudo_labels(torch.full((200, 1000), 0.001))
    assert label.tolist() == [0] * 200
    assert (confidence == 0.001).all()


@pytest.mark.parametrize("threshold", [0.95, 0.7, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_confidence_at_the_threshold_counts(dtype: torch.dtype, threshold: float) -> None:
    at = torch.tensor(threshold, dtype=dtype)
    below, above = torch.nextafter(at, torch.zeros_like(at)), torch.nextafter(at, 2 * torch.ones_like(at))
    mask = confidence_mask(torch.stack([below, at, above]), threshold)
    assert mask.dtype == torch.float32
    assert mask.tolist() == [0.0, 1.0, 1.0]


def test_each_sample_may_have_its_own_threshold() -> None:
    confidence = torch.tensor([0.5, 0.5, 0.5, 0.9])
    assert confidence_mask(confidence, torch.tensor([0.4, 0.5, 0.6, 0.95])).tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("num", [0, 1, 50])
def test_masks_against_a_loop(num: int) -> None:
    confidence = torch.rand(num, generator=torch.Generator().manual_seed(num))
    expected = [1.0 if c >= 0.4 else 0.0 for c in confidence.tolist()]
    assert confidence_mask(confidence, 0.4).tolist() == expected
    assert num < 50 or 0 < sum(expected) < num


def test_a_mask_carries_no_gradient() -> None:
    assert not confidence_mask(torch.tensor([0.5, 1.0], requires_grad=True), 0.95).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_entropy_in_nats(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(7, 0.3), size=20)
    probs[0] = np.eye(7)[2]
    probs[1] = 1 / 7
    expected = [-sum(p * np.log(p) for p in row if p > 0) for row in probs]
    found = entropy(torch.from_numpy(probs).to(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0] == 0
    assert found[1].item() == pytest.approx(np.log(7), rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_noisy_labels_against_a_loop(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    label = torch.randint(num_classes, (500,), generator=generator)
    draws = torch.rand(500, 2, generator=generator)
    draws[:20, 1] = 1 - 2**-24  # the largest number that a draw can be
    draws[20:40, 1] = 0
    draws[:50, 0] = 0
    found = with_label_noise(label, draws, noise=0.4, num_classes=num_classes)
    for before, after, (u, v) in zip(label.tolist(), found.tolist(), draws.tolist(), strict=True):
        others = [k % num_classes for k in range(before + 1, before + num_classes)]
        assert after == (others[int(v * len(others))] if u < 0.4 else before)
