from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layermatch import UserError
from layermatch.data import Split, make_split
from layermatch.data.sources import Digits

Labels = NDArray[np.int64]


@cache
def digits() -> Labels:
    return Digits().load().labelled.labels


@cache
def uneven() -> Labels:
    """300 labels of 4 classes: 150, 75, 45 and 30, shuffled."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(4), [150, 75, 45, 30]))


POOLS = {"digits": digits, "uneven": uneven}


def split(labels: Labels, **changes: Any) -> Split:
    options: dict[str, Any] = {"num_labels": 40, "num_val": 0, "val_from": "pool", "seed": 0}
    return make_split(labels, num_classes=int(labels.max()) + 1, **options | changes)


def counts(labels: Labels, positions: tuple[int, ...]) -> list[int]:
    return [int((labels[list(positions)] == k).sum()) for k in range(labels.max() + 1)]


# --------------------------------------------------------------------------------------------------- labelled images


@pytest.mark.parametrize("num_labels", [10, 40, 250, 1390])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_every_class_has_the_same_number_of_labels(num_labels: int, seed: int) -> None:
    labels = digits()
    drawn = split(labels, num_labels=num_labels, seed=seed)
    assert counts(labels, drawn.labelled) == [num_labels // 10] * 10
    assert len(set(drawn.labelled)) == num_labels
    assert list(drawn.labelled) == sorted(drawn.labelled)
    assert (drawn.seed, drawn.pool_size, drawn.validation) == (seed, 1437, ())


@pytest.mark.parametrize("val_from", ["labelled", "pool"])
@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_budget_is_within_a_larger_one(seed: int, val_from: str) -> None:
    # Few held out, so that the smaller budget of `labelled` still has some to give.
    small, large = (split(digits(), num_labels=num, num_val=20, val_from=val_from, seed=seed) for num in (40, 250))
    assert set(small.labelled) < set(large.labelled)


@pytest.mark.parametrize(("pool", "budgets"), [("digits", (40, 250, 500, 1000)), ("uneven", (4, 20, 40, 60))])
@pytest.mark.parametrize("num_val", [10, 50, 101, 140])
def test_validation_images_of_the_pool_do_not_change_with_the_budget(
    pool: str, budgets: tuple[int, ...], num_val: int
) -> None:
    labels = POOLS[pool]()
    held_out = {split(labels, num_labels=num_labels, num_val=num_val).validation for num_labels in budgets}
    assert len(held_out) == 1


def test_no_number_takes_every_image() -> None:
    assert split(uneven(), num_labels=None).labelled == tuple(range(300))


@pytest.mark.parametrize("num_labels", [40, 120])
def test_labels_are_drawn_at_random_by_the_seed_alone(num_labels: int) -> None:
    drawn = [split(uneven(), num_labels=num_labels, seed=seed).labelled for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_every_image_is_drawn_equally_often() -> None:
    labels = np.repeat(np.arange(2), 10)
    drawn = np.concatenate([split(labels, num_labels=4, seed=seed).labelled for seed in range(500)])
    times = np.bincount(drawn, minlength=20)
    # 500 draws with probability 1/5: five standard errors are 45.
    assert abs(times - 100).max() < 45


# ------------------------------------------------------------------------------------------------- validation images


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("num_val", [1, 7, 40, 100])
@pytest.mark.parametrize("seed", [0, 3])
def test_validation_images_of_the_pool(pool: str, num_val: int, seed: int) -> None:
    labels = POOLS[pool]()
    drawn = split(labels, num_val=num_val, seed=seed)
    assert len(drawn.labelled) == 40
    assert len(set(drawn.validation)) == num_val
    assert not set(drawn.validation) & set(drawn.labelled)
    assert list(drawn.validation) == sorted(drawn.validation)
    shares = np.bincount(labels) * num_val / len(labels)
    assert (abs(counts(labels, drawn.validation) - shares) < 1).all()


def test_shares_that_are_no_whole_numbers_are_rounded_by_largest_remainder() -> None:
    # 7 of 300 in classes of 150, 75, 45 and 30 are 3.5, 1.75, 1.05 and 0.7.
    assert counts(uneven(), split(uneven(), num_val=7).validation) == [3, 2, 1, 1]
    assert counts(uneven(), split(uneven(), num_val=1).validation) == [1, 0, 0, 0]


@pytest.mark.parametrize("num_val", [1, 4, 10, 36])
def test_validation_images_of_the_labelled_ones(num_val: int) -> None:
    labels = uneven()
    whole = split(labels, num_labels=40)
    drawn = split(labels, num_labels=40, num_val=num_val, val_from="labelled")
    assert len(drawn.labelled) == 40 - num_val
    assert not set(drawn.labelled) & set(drawn.validation)
    assert {*drawn.labelled, *drawn.validation} == set(whole.labelled)
    held_out = counts(labels, drawn.validation)
    assert sum(held_out) == num_val
    assert max(held_out) - min(held_out) <= 1
    assert min(counts(labels, drawn.labelled)) >= 1


def test_validation_images_of_a_fully_labelled_set() -> None:
    labels = uneven()
    drawn = split(labels, num_labels=None, num_val=20, val_from="labelled")
    assert sorted(drawn.labelled + drawn.validation) == list(range(300))
    assert counts(labels, drawn.validation) == [10, 5, 3, 2]


def test_a_class_without_images_does_not_matter_where_nothing_is_asked_of_it() -> None:
    labels = np.array([0, 0, 0, 2, 2, 2])
    for val_from in ("labelled", "pool"):
        drawn = make_split(labels, num_classes=3, num_labels=None, num_val=0, val_from=val_from, seed=0)
        assert drawn.labelled == (0, 1, 2, 3, 4, 5)
    drawn = make_split(labels, num_classes=3, num_labels=None, num_val=2, val_from="labelled", seed=0)
    assert counts(labels, drawn.validation) == [1, 0, 1]


# ------------------------------------------------------------------------------------------------------------ refusals

LEGAL = "give a multiple of the 10 classes, from 10 to 1390"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too many": ({"num_labels": 1400}, "of 1437 images whose smallest class has 139: " + LEGAL),
    "not divisible": ({"num_labels": 41}, "=41 cannot be the same number for every class: " + LEGAL),
    "below one per class": ({"num_labels": 9}, "=9 is below one label per class: " + LEGAL),
    "zero": ({"num_labels": 0}, "=0 is below one label per class: " + LEGAL),
    "negative": ({"num_labels": -10}, "=-10 is below one label per class: " + LEGAL),
    "no whole number": ({"num_labels": 40.0}, "num_labels=40.0 is not legal: give a whole number"),
    "a bool": ({"num_labels": True}, "num_labels=True is not legal: give a whole number"),
    "a word": ({"num_labels": "all"}, "num_labels='all' is not legal: give a whole number"),
    "val_from": ({"val_from": "test"}, "val_from='test' is not legal: choose one of labelled, pool"),
    "negative num_val": ({"num_val": -1}, "num_val=-1 is not legal: give a whole number, at least 0"),
    "no whole num_val": ({"num_val": 0.1}, "num_val=0.1 is not legal: give a whole number, at least 0"),
    "negative seed": ({"seed": -1}, "seed=-1 is not legal: give a whole number, at least 0"),
    "pool too small": (
        {"num_val": 1398},
        "=1398 is more than can be held out, each class in proportion, of 1397 images of the training pool",
    ),
    "all are labelled": (
        {"num_labels": None, "num_val": 1},
        "=1 is more than can be held out, each class in proportion, of 0 images of the training pool that are not "
        "labelled (val_from=pool): give num_val=0, or val_from=labelled with num_val=1427 at most",
    ),
    "labelled too few": (
        {"num_val": 31, "val_from": "labelled"},
        "=31 is more than can be held out, each class in proportion, of num_labels=40 (val_from=labelled): "
        "give num_val=30 at most, or val_from=pool with num_val=1397 at most",
    ),
    "more than the labelled": (
        {"num_val": 500, "val_from": "labelled"},
        "=500 is more than can be held out, each class in proportion, of",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(UserError) as caught:
        split(digits(), **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_largest_legal_numbers_are_taken() -> None:
    assert len(split(digits(), num_labels=1390).labelled) == 1390
    drawn = split(digits(), num_labels=40, num_val=30, val_from="labelled")
    assert (len(drawn.labelled), len(drawn.validation)) == (10, 30)
    labels = np.repeat(np.arange(4), 20)
    drawn = split(labels, num_labels=40, num_val=40)
    assert sorted(drawn.labelled + drawn.validation) == list(range(80))


# ---------------------------------------------------------------------------------------------------------- the file


def test_a_split_is_saved_and_read(tmp_path: Path) -> None:
    drawn = split(digits(), num_val=50, seed=2**32 - 1)
    drawn.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == drawn
    assert Split.load(str(tmp_path / "split.json")) == drawn


GOOD = {"seed": 0, "pool_size": 10, "labelled": [0, 1], "validation": [2]}
BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "is not a split file"),
    "a folder": (lambda path: path.mkdir(), "is not a split file"),
    "empty": (lambda path: path.write_text(""), "is not a split file"),
    "bytes": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not a split file"),
    "a list": (lambda path: path.write_text("[1, 2]"), "is not a split file"),
    "a number": (lambda path: path.write_text("3"), "is not a split file"),
    "a key is missing": (lambda path: path.write_text(json.dumps({"seed": 0})), "is not a split file"),
    "no positions": (lambda path: path.write_text(json.dumps(GOOD | {"labelled": 3})), "is not a split file"),
    "words": (lambda path: path.write_text(json.dumps(GOOD | {"labelled": ["cat"]})), "is not a split file"),
    "other pool": (
        lambda path: path.write_text(json.dumps(GOOD | {"pool_size": 11})),
        "is of a pool of 11 images, but this data set has 10",
    ),
    "outside": (lambda path: path.write_text(json.dumps(GOOD | {"validation": [10]})), "is of a pool of 10 images"),
    "below": (lambda path: path.write_text(json.dumps(GOOD | {"labelled": [-1]})), "is of a pool of 10 images"),
    "overlap": (lambda path: path.write_text(json.dumps(GOOD | {"validation": [1]})), "names an image twice"),
    "twice": (lambda path: path.write_text(json.dumps(GOOD | {"labelled": [0, 0]})), "names an image twice"),
    "no labels": (lambda path: path.write_text(json.dumps(GOOD | {"labelled": []})), "has no labelled images"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_wrong_split_file_is_refused(name: str, tmp_path: Path) -> None:
    write, message = BAD_FILES[name]
    path = tmp_path / "split.json"
    write(path)
    with pytest.raises(UserError) as caught:
        Split.load(path).check(pool_size=10)
    assert f"split={path} " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(json.dumps(GOOD))
    assert Split.load(tmp_path / "split.json") == Split(0, 10, (0, 1), (2,))
