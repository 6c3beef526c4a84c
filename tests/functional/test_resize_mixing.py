"""ResizeMix, its partners and its loss, against loops over pixels and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import (
    Box,
    own_share,
    partners_of_class,
    paste_resized,
    resize_box,
    soft_cross_entropy,
    weighted_squared_error,
)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (32, 32)])
def test_a_box_is_where_the_authors_code_has_it(size: tuple[int, int]) -> None:
    height, width = size
    generator = np.random.default_rng(0)
    for _ in range(200):
        scale, row, column = generator.uniform(0, 1), int(generator.integers(height)), int(generator.integers(width))
        cut_h, cut_w = int(height * scale), int(width * scale)
        expected = [
            *np.clip([row - cut_h // 2, row + cut_h // 2], 0, height).tolist(),
            *np.clip([column - cut_w // 2, column + cut_w // 2], 0, width).tolist(),
        ]
        box = resize_box(height=height, width=width, scale=scale, centre=(row, column))
        assert list(box) == expected
        inside = sum(expected[0] <= r < expected[1] for r in range(height)) * sum(
            expected[2] <= c < expected[3] for c in range(width)
        )
        assert own_share(box, height=height, width=width) == pytest.approx(1 - inside / (height * width), abs=1e-15)


def pasted_by_loops(image: np.ndarray, other: np.ndarray, box: Box, crop: float) -> np.ndarray:
    """One pixel at a time: which pixel of the middle of the other is the nearest one."""
    _, height, width = image.shape
    rows, columns = int(height * crop), int(width * crop)
    top, left = (height - rows) // 2, (width - columns) // 2
    out = image.copy()
    for r in range(box.top, box.bottom):
        for c in range(box.left, box.right):
            source_row = (r - box.top) * rows // (box.bottom - box.top)
            source_column = (c - box.left) * columns // (box.right - box.left)
            out[:, r, c] = other[:, top + source_row, left + source_column]
    return out


@pytest.mark.parametrize("crop", [0.9, 1.0, 0.5])
@pytest.mark.parametrize("box", [Box(0, 4, 2, 7), Box(3, 4, 0, 8), Box(1, 8, 5, 6), Box(0, 8, 0, 8)])
def test_the_other_image_is_made_smaller(box: Box, crop: float) -> None:
    images, others = torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    found = paste_resized(images, others, box, crop=crop)
    for row in range(3):
        expected = pasted_by_loops(images[row].numpy(), others[row].numpy(), box, crop)
        np.testing.assert_array_equal(found[row].numpy(), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("box", [Box(3, 3, 0, 4), Box(0, 4, 2, 2)])
def test_a_box_without_a_pixel_leaves_images_as_they_are(box: Box) -> None:
    images, others = torch.rand(2, 3, 1, 8, 8)
    assert torch.equal(paste_resized(images, others, box), images)
    assert own_share(box, height=8, width=8) == 1


def test_no_images_are_no_images() -> None:
    none = torch.empty(0, 1, 8, 8)
    assert paste_resized(none, none, Box(0, 4, 0, 4)).shape == none.shape
    assert partners_of_class(torch.empty(0, dtype=torch.long), torch.tensor([1]), torch.empty(0)).tolist() == []
    assert partners_of_class(torch.tensor([1]), torch.empty(0, dtype=torch.long), torch.zeros(1)).tolist() == [-1]
    assert weighted_squared_error(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0)) == 0


def test_every_partner_of_the_class_is_as_likely() -> None:
    candidates = torch.tensor([2, 0, 1, 0, 0, 1])
    count = 3000
    draws = torch.arange(count) / count
    for label, rows in {0: [1, 3, 4], 1: [2, 5], 2: [0], 3: [-1]}.items():
        found = partners_of_class(torch.full((count,), label), candidates, draws)
        assert sorted(found.unique().tolist()) == rows
        counts = [int((found == row).sum()) for row in rows]
        assert max(counts) - min(counts) <= 1
    largest = torch.tensor([1 - 2**-24])  # the largest draw that there is
    assert partners_of_class(torch.tensor([0]), candidates, largest).tolist() == [4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_each_error_has_its_weight_in_value_and_gradient(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    target = torch.rand(7, 4, generator=generator).double().softmax(dim=1)
    weight = torch.tensor([0.0, 1.0, 0.5, 0.25, 1.0, 0.1, 0.9]).double()
    loss = weighted_squared_error(logits, target, weight)
    total, slope = 0.0, np.zeros((7, 4))
    for i, row in enumerate(logits.detach().double().numpy()):
        probs = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        error = probs - target[i].numpy()
        total += float(weight[i]) * (error**2).mean() / 7
        slope[i] = float(weight[i]) / 7 * 2 / 4 * probs * (error - (error * probs).sum())
    loss.backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert loss.item() == pytest.approx(total, rel=max(tolerance, 1e-6) if dtype != torch.float64 else 1e-12)
    np.testing.assert_allclose(logits.grad.double().numpy(), slope, rtol=tolerance, atol=tolerance * 1e-2)


def test_a_sum_of_cross_entropies_is_n_times_their_mean() -> None:
    logits, target = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64).softmax(dim=1)
    total = soft_cross_entropy(logits, target, reduction="sum")
    torch.testing.assert_close(total, 5 * soft_cross_entropy(logits, target))
    assert soft_cross_entropy(logits[:0], target[:0], reduction="sum") == 0
