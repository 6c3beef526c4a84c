"""A data set some of whose classes have no labels: their images are in the unlabelled pool, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import ConcatImages, take
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.sources.base import UNKNOWN, shorten, unknown_labels
from layermatch.data.wording import printable
from layermatch.errors import UserError, check_number

__all__ = ["leave_classes_out", "unseen_classes"]

#: The setting, as the user writes it.
NAME = "data.open_set"

#: The classes that must be left.
MIN_SEEN = 2


def leave_classes_out(content: SourceData, open_set: int | Sequence[int | str]) -> SourceData:
    """The data set as it is where some classes are unseen: labels are drawn from the others alone.

    The labelled pool and the test set hold images of seen classes, whose numbers go from 0 in their order. The images
    of unseen classes in the training pool become further unlabelled ones, and their class counts as unknown (-1), so
    that the accuracy of pseudo-labels is that of images which have a right label. Predefined label sets are left out.

    Source: the protocol of IOMatch (Li et al. 2023), which takes CIFAR-10's six animals for the seen classes.

    Args:
        content: The data set.
        open_set: The unseen classes, by name or by position from 0; or a number of seen classes, the first ones.

    Returns:
        The data set with the seen classes, and a note of what was left out.

    Raises:
        UserError: There is no such class, fewer than two are left, or none of the pool's images is of an unseen class.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> data = leave_classes_out(Digits().load(), ["8", "9"])
        >>> len(data.classes), int(data.labelled.labels.max()), set(data.unlabelled.labels.tolist())
        (8, 7, {-1})
    """
    unseen = unseen_classes(content.classes, open_set)
    seen = [number for number in range(len(content.classes)) if number not in unseen]
    numbers = np.full(len(content.classes) + 1, UNKNOWN, np.int64)  # the last one is for -1
    numbers[seen] = np.arange(len(seen))
    pool = numbers[content.labelled.labels]
    kept, left = np.flatnonzero(pool != UNKNOWN), np.flatnonzero(pool == UNKNOWN)
    names = [content.classes[number] for number in unseen]
    if not len(left):
        raise UserError(f"{NAME}: no training image is of an unseen class ({shorten(names)}): give null, or others")
    of_test, test = _seen(content.test, numbers)
    of_validation, validation = _seen(content.validation, numbers)
    return replace(
        content,
        classes=tuple(content.classes[number] for number in seen),
        labelled=_part(content.labelled, kept, pool),
        unlabelled=_joined(content, left, numbers),
        validation=validation,
        test=test,
        folds=(),
        image_ids=_ids(content, kept=kept, left=left, evaluated={"validation": of_validation, "test": of_test}),
        notes={**content.notes, "unseen classes": _note(content, names, len(left), of_test)},
    )


def unseen_classes(classes: Sequence[str], open_set: int | Sequence[int | str]) -> tuple[int, ...]:
    """The positions of the unseen classes, in order.

    Args:
        classes: The names of all classes.
        open_set: See :func:`leave_classes_out`.

    Raises:
        UserError: There is no such class, one is named twice, or fewer than two or all of the classes are left.

    Example:
        >>> unseen_classes(("cat", "dog", "fox"), ["dog"]), unseen_classes(("cat", "dog", "fox"), 2)
        ((1,), (2,))
    """
    count = len(classes)
    if not isinstance(open_set, str | Sequence):
        check_number(NAME, open_set, low=MIN_SEEN, high=count - 1, integer=True)
        return tuple(range(open_set, count))
    if isinstance(open_set, str) or not open_set:
        raise UserError(f"{NAME}={open_set!r} is not legal: give a list of classes, or how many have labels")
    found = [_position(classes, each) for each in open_set]
    if len(set(found)) < len(found):
        raise UserError(f"{NAME}={list(open_set)} names a class twice")
    if count - len(found) < MIN_SEEN:
        raise UserError(f"{NAME} leaves {count - len(found)} of {count} classes: leave at least {MIN_SEEN}")
    return tuple(sorted(found))


def _position(classes: Sequence[str], given: object) -> int:
    if isinstance(given, str):
        if given not in classes:
            raise UserError(f"{NAME}: there is no class {printable(given)!r}: the classes are {shorten(list(classes))}")
        return classes.index(given)
    check_number(NAME, given, low=0, high=len(classes) - 1, integer=True)
    return int(given)  # type: ignore[call-overload, no-any-return]


def _part(images: ImageSet, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> ImageSet:
    return ImageSet(take(images.images, rows), labels[rows])


def _seen(part: ImageSet | None, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ImageSet | None]:
    """The rows of an evaluated part that are of seen classes, and what is left of it."""
    if part is None:
        return np.empty(0, np.int64), None
    rows = np.flatnonzero(numbers[part.labels] != UNKNOWN)
    return rows, _part(part, rows, numbers[part.labels]) if len(rows) else None


def _joined(content: SourceData, left: NDArray[np.int64], numbers: NDArray[np.int64]) -> ImageSet:
    """The images of unseen classes in the training pool, then those that had no label before."""
    images, labels = take(content.labelled.images, left), unknown_labels(len(left))
    more = content.unlabelled
    if more is None:
        return ImageSet(images, labels)
    return ImageSet(ConcatImages([images, more.images]), np.concatenate([labels, numbers[more.labels]]))


def _ids(
    content: SourceData,
    *,
    kept: NDArray[np.int64],
    left: NDArray[np.int64],
    evaluated: Mapping[str, NDArray[np.int64]],
) -> dict[str, tuple[str, ...]]:
    """The names of the images, part by part, where all of a part have some."""
    ids = content.image_ids
    found = {}
    if "labelled" in ids:
        found["labelled"] = tuple(ids["labelled"][row] for row in kept)
        if content.unlabelled is None or "unlabelled" in ids:
            found["unlabelled"] = (*(ids["labelled"][row] for row in left), *ids.get("unlabelled", ()))
    for name, rows in evaluated.items():
        if name in ids and len(rows):
            found[name] = tuple(ids[name][row] for row in rows)
    return found


def _note(content: SourceData, names: list[str], num_images: int, of_test: NDArray[np.int64]) -> str:
    left_out = len(content.test) - len(of_test) if content.test is not None else 0
    tested = f"; {left_out:,} test images of theirs are left out" if left_out else ""
    return (
        f"{len(names)} of {len(content.classes)} ({shorten(names)}): {num_images:,} images, in the unlabelled pool "
        f"alone{tested}"
    )
