"""A user's own images by a table that says of each file its class and what it is for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layermatch.data.manifest import Row, class_names, read_manifest
from layermatch.data.sources.base import UNKNOWN, SourceData, shorten
from layermatch.data.sources.listing import Listing, check_folder_settings, check_root_folder, of_listings
from layermatch.data.wording import look_alikes_text, printable
from layermatch.errors import UserError
from layermatch.paths import check_path, expand

__all__ = ["Manifest"]

#: What a split of the table is called in a data set, but for training images.
_PARTS = {"val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Image files and their classes as a table has them, see :mod:`layermatch.data.manifest`.

    The classes are the labels of training images, sorted. Training images with a label are the pool that labels are
    drawn from, all of them unless ``num_labels`` says how many; those without are further unlabelled ones. Rows of
    ``val`` and ``test`` are the validation and the test set. Rows that are ``ignored``, and those of ``val`` and
    ``test`` without a label, are not used, and counted in the ``notes``. Files beside those in the table are not read.

    Args:
        manifest: The table, CSV in UTF-8 or Parquet.
        root: The folder that its paths are relative to; None is the table's own.
        image_size: The height and width in pixels that images are resized and cropped to; None chooses them by the
            sizes of the training images, see :func:`~layermatch.data.sources.image_size.choose_size`.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        UserError: A value is not legal; from :meth:`load`, the table cannot be read, has fewer than two classes or one
            that training images do not have, or files are not there.

    Example:
        >>> Manifest(manifest="no/such/labels.csv", root="pictures").load()
        Traceback (most recent call last):
        layermatch.errors.UserError: cannot read the manifest no/such/labels.csv: No such file or directory
    """

    manifest: str | Path
    root: str | Path | None = None
    image_size: int | None = None
    channels: int = 3

    def __post_init__(self) -> None:
        check_path("manifest", self.manifest, "a CSV or Parquet file")
        root = "." if self.root is None else self.root
        check_folder_settings(root, self.image_size, self.channels, may_choose=True)

    def load(self) -> SourceData:
        """Read the table, and see that its files are there; none is opened."""
        file = expand("manifest", self.manifest, "a CSV or Parquet file")
        rows = read_manifest(file)
        root = file.parent if self.root is None else check_root_folder(self.root, "the files of the manifest")
        classes = _classes(file, rows)
        used = [row for row in rows if row.split == "train" or (row.split in _PARTS and row.label)]
        _check_labels(file, used, classes)
        _check_there(file, root, used)
        numbers = {name: number for number, name in enumerate(classes)}
        listings = {
            part: _listing(rows_of_part, numbers) for part, rows_of_part in _parts_of(used).items() if rows_of_part
        }
        return of_listings(
            root, listings, classes, image_size=self.image_size, channels=self.channels, notes=_notes(rows, classes),
            are_labels_in_names=False,
        )  # fmt: skip


def _parts_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        "labelled": [row for row in rows if row.split == "train" and row.label],
        "unlabelled": [row for row in rows if row.split == "train" and not row.label],
        **{part: [row for row in rows if row.split == split] for split, part in _PARTS.items()},
    }


def _listing(rows: Sequence[Row], numbers: dict[str, int]) -> Listing:
    labels = np.array([numbers[row.label] if row.label else UNKNOWN for row in rows], np.int64)
    return Listing(tuple(row.path for row in rows), labels)


def _refusal(file: Path, what: str) -> UserError:
    return UserError(f"manifest={printable(str(file))}: {what}")


def _classes(file: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    classes = class_names(rows)
    if not classes:
        raise _refusal(file, "no training image has a label: label some of each class, in rows whose split is train")
    if len(classes) < 2:
        raise _refusal(file, f"all labels of training images are {printable(classes[0])}: label at least 2 classes")
    return classes


def _check_labels(file: Path, rows: Sequence[Row], classes: Sequence[str]) -> None:
    """Refuse a class of validation or test images that nothing can be learnt of."""
    unknown = Counter(row.label for row in rows if row.label not in {"", *classes})
    if unknown:
        first = next(row for row in rows if row.label in unknown)
        alike = "".join(f"; {text}" for text in look_alikes_text(unknown, classes)[:1])
        names = shorten([printable(name) for name in unknown])
        raise _refusal(
            file,
            f"no training image has the label {names} of {unknown.total():,} {first.split} images, the first of which "
            f"is {printable(first.path)}: the classes are {shorten([printable(name) for name in classes])}{alike}",
        )


def _check_there(file: Path, root: Path, rows: Sequence[Row]) -> None:
    gone = [row.path for row in rows if not os.path.isfile(f"{root}/{row.path}")]  # noqa: PTH113 -- 100,000 Paths
    if gone:
        raise _refusal(
            file,
            f"{len(gone):,} of its {len(rows):,} images are not in {printable(str(root))}, the first is "
            f"{printable(gone[0])}: give root=FOLDER, which paths are relative to, or take their rows out",
        )


def _notes(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, str]:
    counts = {
        "ignored": sum(row.split == "ignored" for row in rows),
        **{f"{split} without a label": sum(row.split == split and not row.label for row in rows) for split in _PARTS},
    }
    shown = ", ".join(f"{what} ({count:,})" for what, count in counts.items() if count)
    notes = {"not used": f"rows of the manifest: {shown}"} if shown else {}
    pairs = [text for place, name in enumerate(classes) for text in look_alikes_text([name], classes[:place])]
    return notes | ({"class names": shorten(pairs, 3)} if pairs else {})
