"""Feature clustering against slow re-statements in numpy, written from the formulas with full matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layermatch.functional import between_class_scatter, nc1, nearest_centre_accuracy, within_class_scatter

Array = NDArray[np.float64]

#: Sizes of the classes, and features.
CASES = [([6, 6, 6], 4), ([3, 9, 1, 5], 8), ([2, 2], 1), ([20, 30, 25, 4, 3, 2], 3), ([10] * 7, 40)]


def draw(sizes: list[int], num_features: int, *, spread: float = 1.0, offset: float = 0.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(sum(sizes) * num_features)
    label = np.repeat(np.arange(len(sizes)), sizes) * 2 + 1  # numbers with gaps: classes without a sample
    rng.shuffle(label)
    centres = rng.normal(size=(label.max() + 1, num_features))
    return centres[label] + spread * rng.normal(size=(len(label), num_features)) + offset, label


def matrices(features: Array, label: Array) -> tuple[Array, Array, int]:
    """S_W and S_B, sample by sample and class by class."""
    classes = sorted(set(label.tolist()))
    means = {k: np.mean([z for z, y in zip(features, label, strict=True) if y == k], axis=0) for k in classes}
    middle = sum(means.values()) / len(classes)
    within = sum(np.outer(z - means[y], z - means[y]) for z, y in zip(features, label.tolist(), strict=True))
    between = sum(np.outer(means[k] - middle, means[k] - middle) for k in classes)
    return within / len(features), between / len(classes), len(classes)


@pytest.mark.parametrize(("sizes", "num_features"), CASES)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scatters_and_nc1(sizes: list[int], num_features: int, offset: float) -> None:
    features, label = draw(sizes, num_features, offset=offset)
    within, between, num_classes = matrices(features, label)
    z, y = torch.from_numpy(features), torch.from_numpy(label)
    assert within_class_scatter(z, y).item() == pytest.approx(np.trace(within), rel=1e-10)
    assert between_class_scatter(z, y).item() == pytest.approx(np.trace(between), rel=1e-10)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / num_classes
    assert nc1(z, y).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("sizes", "num_features"), CASES)
def test_nearest_centre_without_the_sample_itself(sizes: list[int], num_features: int) -> None:
    features, label = draw(sizes, num_features)
    right = []
    for i, (z, y) in enumerate(zip(features, label, strict=True)):
        if (label == y).sum() < 2:
            continue
        distance = {}
        for k in set(label.tolist()):
            members = [features[j] for j in range(len(label)) if label[j] == k and j != i]
            distance[k] = np.linalg.norm(z - np.mean(members, axis=0)) if members else np.inf
        right.append(min(distance, key=lambda k: distance[k]) == y)
    found = nearest_centre_accuracy(torch.from_numpy(features), torch.from_numpy(label)).item()
    assert found == pytest.approx(np.mean(right), abs=1e-12)
    assert found > 0 or len(label) < 5


def test_collapse_is_zero_and_right() -> None:
    centres = torch.eye(4, 6, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3] * 3)
    features = centres[label]
    assert within_class_scatter(features, label) == 0
    assert nc1(features, label).item() == pytest.approx(0, abs=1e-20)
    assert nearest_centre_accuracy(features, label) == 1
    assert between_class_scatter(features, label).item() == pytest.approx(0.75)


def test_nc1_does_not_depend_on_scale_place_or_rotation() -> None:
    features, label = (torch.from_numpy(array) for array in draw([5, 6, 7], 8))
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = nc1(features, label).item()
    assert nc1(100 * features @ rotation + 7, label).item() == pytest.approx(expected, rel=1e-9)
    assert within_class_scatter(100 * features, label) == pytest.approx(1e4 * within_class_scatter(features, label))


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 1]])
def test_without_a_difference_between_classes_nc1_is_undefined(label: list[int]) -> None:
    features = torch.zeros(3, 2, dtype=torch.float64)
    assert nc1(features, torch.tensor(label)).isnan()


def test_classes_of_one_sample_have_no_centre_of_others() -> None:
    assert nearest_centre_accuracy(torch.eye(3), torch.tensor([0, 1, 2])).isnan()
