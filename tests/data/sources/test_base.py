from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from layermatch import UserError
from layermatch.data.images import ArrayImages
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.sources.base import check_label_range, shorten
from layermatch.paths import check_path


def image_set(*labels: int, size: int = 4) -> ImageSet:
    images = ArrayImages(np.zeros((len(labels), 1, size, size), np.uint8))
    return ImageSet(images=images, labels=np.array(labels, np.int64))


@pytest.mark.parametrize(
    "labels", [np.zeros(3, np.int64), np.zeros((2, 1), np.int64), np.zeros(2, np.int32), np.zeros(2)]
)
def test_labels_must_fit_the_images(labels: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"do not fit 2 images: give int64 of shape \(2,\)"):
        ImageSet(images=ArrayImages(np.zeros((2, 1, 4, 4), np.uint8)), labels=labels)


def test_source_data_names_its_parts_and_images() -> None:
    data = SourceData(
        classes=("cat", "dog"),
        labelled=image_set(0, 1),
        unlabelled=image_set(-1, 1, 0),
        test=None,
        folds=(np.array([1]),),
        image_ids={"labelled": ("train/cat/1.png", "train/dog/1.png")},
    )
    assert list(data.parts()) == ["labelled", "unlabelled"]
    assert data.image_id("labelled", 1) == "train/dog/1.png"
    assert data.image_id("unlabelled", 2) == "unlabelled:2"


WRONG: dict[str, tuple[Callable[[], SourceData], str]] = {
    "one class": (
        lambda: SourceData(classes=("cat",), labelled=image_set(0), unlabelled=None, test=None),
        r"1 class \(cat\) is not legal: give at least 2",
    ),
    "unknown label in the pool": (
        lambda: SourceData(classes=("a", "b"), labelled=image_set(0, -1), unlabelled=None, test=None),
        "the labelled images: labels from -1 to 0 are not legal: give labels from 0 to 1",
    ),
    "unknown label in the test set": (
        lambda: SourceData(classes=("a", "b"), labelled=image_set(0), unlabelled=None, test=image_set(-1)),
        "the test images: labels from -1",
    ),
    "label too large": (
        lambda: SourceData(classes=("a", "b"), labelled=image_set(0), unlabelled=image_set(2), test=None),
        "the unlabelled images: labels from 2 to 2 are not legal: give labels from -1 to 1",
    ),
    "shapes": (
        lambda: SourceData(classes=("a", "b"), labelled=image_set(0), unlabelled=None, test=image_set(0, size=8)),
        r"the test images are \(1, 8, 8\), the labelled ones \(1, 4, 4\)",
    ),
    "fold outside": (
        lambda: SourceData(
            classes=("a", "b"),
            labelled=image_set(0, 1),
            unlabelled=None,
            test=None,
            folds=(np.array([0]), np.array([2])),
        ),
        "fold 1 is not legal: give at least one int64 index from 0 to 1",
    ),
    "empty fold": (
        lambda: SourceData(
            classes=("a", "b"),
            labelled=image_set(0),
            unlabelled=None,
            test=None,
            folds=(np.array([], np.int64),),
        ),
        "fold 0 is not legal",
    ),
    "too few names": (
        lambda: SourceData(
            classes=("a", "b"),
            labelled=image_set(0, 1),
            unlabelled=None,
            test=None,
            image_ids={"labelled": ("x",)},
        ),
        "1 image_ids for 'labelled' do not fit",
    ),
    "names of nothing": (
        lambda: SourceData(
            classes=("a", "b"),
            labelled=image_set(0, 1),
            unlabelled=None,
            test=None,
            image_ids={"test": ("x", "y")},
        ),
        "2 image_ids for 'test' do not fit: give one an image, for labelled",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_source_data_is_refused(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("value", [None, "", "  ", 3, b"data"])
def test_a_path_must_be_a_path(value: object) -> None:
    with pytest.raises(UserError, match=r"root=.* is not legal: give the path of a folder"):
        check_path("root", value, "a folder")


def test_the_label_range_includes_its_ends() -> None:
    check_label_range("here", np.array([1, 10]), low=1, high=10)
    check_label_range("here", np.array([], np.int64), low=1, high=10)
    with pytest.raises(UserError, match="here: labels from 1 to 11 are not legal: give labels from 1 to 10"):
        check_label_range("here", np.array([1, 11]), low=1, high=10)


def test_long_lists_are_shortened() -> None:
    assert shorten(["a", "b"], 2) == "a, b"
    assert shorten(["a", "b", "c", "d"], 2) == "a, b and 2 more"
