"""STL-10 in its binary format, read by memory map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import ImageSet, SourceData, check_label_range, unknown_labels
from layermatch.data.sources.published import Download, PublishedSource
from layermatch.errors import UserError

__all__ = ["STL10"]

_IMAGE_SHAPE = (3, 96, 96)
_IMAGE_BYTES = 3 * 96 * 96
_NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class STL10(PublishedSource):
    """STL-10: 96x96 RGB in 10 classes, 5,000 labelled, 100,000 unlabelled and 8,000 test images (2.9 GB).

    Origin: Coates, Lee and Ng 2011, cs.stanford.edu/~acoates/stl10; images from ImageNet, for research. The
    unlabelled images come from a broader distribution and also show other classes. ``folds`` are the ten
    published sets of 1,000 labelled images. The images stay on disk (memory map); only what is read is
    copied.

    Args:
        root: The folder that holds ``stl10_binary/`` (torchvision's layout).
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether every file that torchvision has an MD5 sum for must match it (reads all 2.9 GB once).
            Without, a stand-in passes whose files exist and have fitting sizes.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> STL10(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: STL-10: root='no/such/folder' is not a folder: ...
    """

    def load(self) -> SourceData:
        """Map the images, read labels, folds and class names."""
        folder = self.provide("STL-10", (_stl10_download(),)) / datasets.STL10.base_folder
        labelled = _read_labelled(folder, "train")
        unlabelled = _map_images(folder / "unlabeled_X.bin")
        return SourceData(
            classes=_read_class_names(folder / datasets.STL10.class_names_file),
            labelled=labelled,
            unlabelled=ImageSet(images=unlabelled, labels=unknown_labels(len(unlabelled))),
            test=_read_labelled(folder, "test"),
            folds=_read_folds(folder / datasets.STL10.folds_list_file, len(labelled)),
        )


def _stl10_download() -> Download:
    published = datasets.STL10
    files: dict[str, str | None] = dict(published.train_list + published.test_list)
    # torchvision has no checksum for these two; their contents are checked when they are read.
    files |= {published.class_names_file: None, published.folds_list_file: None}
    return Download(published.url, published.filename, published.tgz_md5, published.base_folder, files)


def _map_images(path: Path) -> ArrayImages:
    count, rest = divmod(path.stat().st_size, _IMAGE_BYTES)
    if rest or not count:
        raise UserError(
            f"STL-10: {path} has {path.stat().st_size} bytes: give one or more images of {_IMAGE_BYTES} bytes each"
        )
    # Each plane is stored column by column.
    return ArrayImages(np.memmap(path, np.uint8, mode="r", shape=(count, *_IMAGE_SHAPE)), layout="NCWH")


def _read_labelled(folder: Path, part: str) -> ImageSet:
    images = _map_images(folder / f"{part}_X.bin")
    path = folder / f"{part}_y.bin"
    labels = np.fromfile(path, np.uint8)
    if len(labels) != len(images):
        raise UserError(f"STL-10: {path} has {len(labels)} labels for {len(images)} images: give one byte an image")
    check_label_range(f"STL-10: {path}", labels, low=1, high=_NUM_CLASSES)
    return ImageSet(images=images, labels=labels.astype(np.int64) - 1)


def _read_class_names(path: Path) -> tuple[str, ...]:
    names = tuple(_read_text(path).split())
    if len(names) != _NUM_CLASSES:
        raise UserError(f"STL-10: {path} has {len(names)} class names: give {_NUM_CLASSES}, one a line")
    return names


def _read_folds(path: Path, num_images: int) -> tuple[NDArray[np.int64], ...]:
    lines = [line.split() for line in _read_text(path).splitlines() if line.strip()]
    if not lines or not all(word.isdecimal() and int(word) < num_images for line in lines for word in line):
        raise UserError(
            f"STL-10: {path} is not legal: give one fold a line, of whole numbers from 0 to {num_images - 1}"
        )
    return tuple(np.array(line, np.int64) for line in lines)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"STL-10: {path} is not a text file") from error
