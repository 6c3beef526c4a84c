"""The mean over the classes of their accuracies, against a count of single predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import macro_accuracy


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_it_is_the_mean_of_each_classes_own_accuracy(num_classes: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(num_classes)
    # The last class has no images, though it is predicted.
    truth = rng.choice(num_classes - 1, size=200, p=np.full(num_classes - 1, 1 / (num_classes - 1)))
    predicted = rng.integers(num_classes, size=200)
    confusion = torch.zeros(num_classes, num_classes, dtype=dtype)
    for true, guess in zip(truth, predicted, strict=True):
        confusion[true, guess] += 1
    shares = [np.mean(predicted[truth == k] == k) for k in range(num_classes) if (truth == k).any()]
    assert macro_accuracy(confusion).item() == pytest.approx(np.mean(shares), rel=1e-12)


def test_of_balanced_classes_it_is_the_accuracy() -> None:
    confusion = torch.tensor([[7, 2, 1], [0, 10, 0], [5, 0, 5]])
    assert macro_accuracy(confusion).item() == pytest.approx(22 / 30)


def test_of_no_images_it_is_no_number() -> None:
    assert macro_accuracy(torch.zeros(3, 3)).isnan()
