"""Wrong labels: how many, which ones, and who must not see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layermatch import UserError
from layermatch.data import SemiSupervisedData
from layermatch.data.label_noise import with_wrong_labels
from layermatch.data.sources import Digits


def make(**changes: Any) -> SemiSupervisedData:
    options: dict[str, Any] = {
        "num_labels": 40, "num_val": 100, "batch_size": 8, "mu": 2, "mean": (0.3,), "std": (0.4,), "seed": 0,
    }  # fmt: skip
    data = SemiSupervisedData(Digits(), **options | changes)
    data.setup()
    return data


def truth(data: SemiSupervisedData) -> np.ndarray:
    return data.content.labelled.labels[list(data.split.labelled)]


@pytest.mark.parametrize("noise", [0, 0.1, 0.2, 0.33, 0.4, 1])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_just_as_many_labels_are_wrong_as_is_asked_for(noise: float, num_classes: int) -> None:
    right = np.arange(100) % num_classes
    given = with_wrong_labels(right, noise=noise, num_classes=num_classes, seed=3)
    assert (given != right).sum() == round(100 * noise)
    assert given.dtype == np.int64
    assert set(given.tolist()) <= set(range(num_classes))
    assert right.tolist() == (np.arange(100) % num_classes).tolist()


def test_every_wrong_class_is_as_likely_and_so_is_every_image() -> None:
    right = np.arange(5000) % 5
    given = with_wrong_labels(right, noise=0.4, num_classes=5, seed=0)
    table = np.zeros((5, 5), int)
    np.add.at(table, (right, given), 1)
    wrong = table[~np.eye(5, dtype=bool)]
    assert wrong.sum() == 2000
    assert abs(wrong - 100).max() < 4.5 * 10  # of 100 each, within 4.5 standard deviations
    assert abs(table.diagonal() - 600).max() < 4.5 * (1000 * 0.4 * 0.6) ** 0.5


def test_wrong_images_of_a_lower_rate_are_among_those_of_a_higher_one() -> None:
    right = np.arange(50) % 10
    few, many = (with_wrong_labels(right, noise=noise, num_classes=10, seed=1) for noise in (0.2, 0.4))
    assert (many[few != right] == few[few != right]).all()
    assert (with_wrong_labels(right, noise=0.2, num_classes=10, seed=2) != few).any()


def test_training_gets_the_wrong_labels_and_evaluation_the_right_ones() -> None:
    right, noisy = make(), make(label_noise=0.4)
    assert noisy.split == right.split
    assert (noisy.labelled.labels != truth(noisy)).sum() == 16
    assert right.labelled.labels.tolist() == truth(noisy).tolist()
    for part in ("validation", "test"):
        assert getattr(noisy, part).labels.tolist() == getattr(right, part).labels.tolist()
    # What is known of the unlabelled pool is for diagnostics, and right.
    assert noisy.unlabelled.labels.tolist() == right.unlabelled.labels.tolist()
    given = dict(zip(noisy.split.labelled, noisy.labelled.labels.tolist(), strict=True))
    known = noisy.pool_labels.numpy()
    assert {row: known[at] for at, row in enumerate(noisy.split.in_pool.tolist()) if known[at] >= 0} == given
    for step in range(3):
        labelled = noisy.batch_of_step(step).labelled
        assert labelled.label.tolist() == noisy.labelled.labels[labelled.indices.numpy()].tolist()


def test_validation_images_of_the_labelled_ones_keep_their_class() -> None:
    options = {"num_labels": 100, "num_val": 40, "val_from": "labelled"}
    noisy, right = make(label_noise=0.4, **options), make(**options)
    assert noisy.validation.labels.tolist() == right.validation.labels.tolist()
    assert (noisy.labelled.labels != truth(noisy)).sum() == 24


def test_a_split_that_is_used_again_has_the_same_wrong_labels(tmp_path: Path) -> None:
    first = make(label_noise=0.2)
    first.save_split(tmp_path / "split.json")
    again = make(label_noise=0.2, split=tmp_path / "split.json", num_labels=None, num_val=0, seed=7)
    assert again.labelled.labels.tolist() == first.labelled.labels.tolist()
    assert make(label_noise=0.2, seed=7).split != first.split


def test_a_class_whose_labels_are_all_wrong_is_named(caplog: pytest.LogCaptureFixture) -> None:
    data = make(label_noise=1, num_labels=10)
    without = set(range(10)) - set(data.labelled.labels.tolist())
    assert without
    assert f"no image of {len(without)} of the 10 classes is labelled" in caplog.text


def test_it_goes_with_long_tails_and_unseen_classes() -> None:
    tail = {"labelled": 5, "labelled_head": 10}
    data = make(label_noise=0.2, num_labels=None, imbalance=tail, open_set=["8", "9"])
    assert (data.labelled.labels != truth(data)).sum() == round(0.2 * len(data.labelled))
    assert data.labelled.labels.max() <= 7


@pytest.mark.parametrize("noise", [-0.1, 1.1, "much", None, True, float("nan")])
def test_what_is_no_share_is_refused(noise: Any) -> None:
    with pytest.raises(UserError, match=r"^label_noise=.* is not legal"):
        make(label_noise=noise)
