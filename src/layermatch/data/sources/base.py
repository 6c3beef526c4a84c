"""What every source of images hands over: a labelled pool, further images, a test set, names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import Images
from layermatch.data.wording import name_text
from layermatch.errors import UserError

__all__ = [
    "UNKNOWN",
    "ImageSet",
    "Source",
    "SourceData",
    "check_label_range",
    "shorten",
    "unknown_labels",
]

#: The label of an image whose class is not known.
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels.

    Args:
        images: ``N`` images of one size.
        labels: ``(N,)`` int64, the class of each image, -1 where it is unknown.

    Raises:
        UserError: ``labels`` is not int64 of shape ``(N,)``.

    Example:
        >>> from layermatch.data.images import ArrayImages
        >>> len(ImageSet(images=ArrayImages(np.zeros((2, 1, 8, 8), np.uint8)), labels=np.array([0, 1])))
        2
    """

    images: Images
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.dtype != np.int64 or self.labels.shape != (len(self.images),):
            raise UserError(
                f"labels of shape {self.labels.shape} and type {self.labels.dtype} do not fit "
                f"{len(self.images)} images: "
                f"give int64 of shape ({len(self.images)},)"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SourceData:
    """One data set, read (or mapped) from disk and checked.

    Args:
        classes: The names of the classes, at least two; class ``k`` is ``classes[k]``. A name that is no text, as of a
            folder in another encoding, is made one.
        labelled: The pool that labels are drawn from: every label is known.
        unlabelled: Further images, or ``None``. Labels are -1, or known and then only for diagnostics.
        validation: The validation set, where the data set has its own, every label known; ``None`` lets one be held out
            of the pool.
        test: The test set, every label known, or ``None``.
        folds: Predefined label sets: each int64 ``(n,)``, indices into ``labelled``. Only STL-10 has them.
        image_ids: Names of images by part (``"labelled"``, ``"unlabelled"``, ``"validation"``, ``"test"``), in the
            order of its images: the file of each image relative to the root. Empty where images have no names.
        notes: What the user should know of how the data set was read, such as files that are not used: text by a
            name of a word or two.
        measured: Settings that were not given and that the source chose by its images, such as ``image_size``, by name.
        are_labels_in_names: Whether an image with another label has another name, as in folders of classes.
        pool: The number of all training images and a digest that tells them from others, with a colon between them,
            where images without a label have no names; empty otherwise.

    Raises:
        UserError: There are fewer than two classes, a label out of range, parts of different image shapes, a fold that
            points outside the pool, or names that do not fit their part.

    Example:
        >>> from layermatch.data.images import ArrayImages
        >>> pool = ImageSet(images=ArrayImages(np.zeros((2, 1, 8, 8), np.uint8)), labels=np.array([0, 1]))
        >>> data = SourceData(classes=("cat", "dog"), labelled=pool, unlabelled=None, test=None)
        >>> data.image_id("labelled", 1)
        'labelled:1'
    """

    classes: tuple[str, ...]
    labelled: ImageSet
    unlabelled: ImageSet | None
    test: ImageSet | None
    folds: tuple[NDArray[np.int64], ...] = ()
    image_ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    validation: ImageSet | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    are_labels_in_names: bool = True
    pool: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(name_text(name) for name in self.classes))
        if len(self.classes) < 2:
            raise UserError(f"{len(self.classes)} class ({', '.join(self.classes)}) is not legal: give at least 2")
        for name, part in self.parts().items():
            lowest = -1 if name == "unlabelled" else 0
            check_label_range(f"the {name} images", part.labels, low=lowest, high=len(self.classes) - 1)
            if part.images.shape != self.labelled.images.shape:
                raise UserError(
                    f"the {name} images are {part.images.shape}, the labelled ones "
                    f"{self.labelled.images.shape}: "
                    "give images of one shape (C, H, W)"
                )
        for number, fold in enumerate(self.folds):
            _check_fold(number, fold, len(self.labelled))
        self._check_image_ids()

    def parts(self) -> dict[str, ImageSet]:
        """Return the parts that there are, by name, ``"labelled"`` first."""
        named = {
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "validation": self.validation,
            "test": self.test,
        }
        return {name: part for name, part in named.items() if part is not None}

    def image_id(self, part: str, index: int) -> str:
        """Name an image: its file relative to the root, or ``part:index`` where images are not files."""
        names = self.image_ids.get(part)
        return f"{part}:{index}" if names is None else names[index]

    def _check_image_ids(self) -> None:
        parts = self.parts()
        for name, ids in self.image_ids.items():
            if name not in parts or len(ids) != len(parts[name]):
                raise UserError(
                    f"{len(ids)} image_ids for {name!r} do not fit: give one an image, for {', '.join(parts)}"
                )


class Source(Protocol):
    """An origin of images.

    The constructor is keyword-only and checks its arguments; only ``load`` touches the disk.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> source: Source = Digits()
        >>> source.load().classes[:3]
        ('0', '1', '2')
    """

    def load(self) -> SourceData:
        """Read or map the data set.

        Raises:
            UserError: The files are missing, incomplete or not what they should be.
        """
        ...


def check_label_range(what: str, labels: NDArray[np.generic], *, low: int, high: int) -> None:
    """Refuse labels outside ``[low, high]``.

    Args:
        what: What the labels belong to, for the message.
        labels: Whole numbers, in any shape.
        low: The smallest legal label.
        high: The largest legal label.

    Raises:
        UserError: A label is outside.

    Example:
        >>> check_label_range("train_y.bin", np.array([0, 1]), low=1, high=10)
        Traceback (most recent call last):
        layermatch.errors.UserError: train_y.bin: labels from 0 to 1 are not legal: give labels from 1 to 10
    """
    if labels.size and (labels.min() < low or labels.max() > high):
        raise UserError(
            f"{what}: labels from {labels.min()} to {labels.max()} are not legal: give labels from {low} to {high}"
        )


def unknown_labels(count: int) -> NDArray[np.int64]:
    """Return the labels of ``count`` images of unknown class.

    Args:
        count: The number of images.

    Returns:
        ``(count,)`` int64, all -1.

    Example:
        >>> unknown_labels(2).tolist()
        [-1, -1]
    """
    return np.full(count, UNKNOWN, np.int64)


def shorten(names: list[str], limit: int = 5) -> str:
    """Return the first few of many names, for a one-line message.

    Args:
        names: The names, as many as there are.
        limit: How many are spelt out.

    Returns:
        The names with commas, and how many were left out.

    Example:
        >>> shorten(["a", "b", "c"], limit=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _check_fold(number: int, fold: NDArray[np.int64], length: int) -> None:
    good = fold.dtype == np.int64 and fold.ndim == 1 and fold.size > 0
    if not good or fold.min() < 0 or fold.max() >= length:
        raise UserError(f"fold {number} is not legal: give at least one int64 index from 0 to {length - 1}")
