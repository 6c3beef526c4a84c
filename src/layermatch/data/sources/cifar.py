"""CIFAR-10 and CIFAR-100 in their Python format."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torchvision import datasets

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import ImageSet, SourceData, check_label_range
from layermatch.data.sources.published import Download, PublishedSource
from layermatch.data.wording import one_line
from layermatch.errors import UserError

__all__ = ["CIFAR10", "CIFAR100"]

_ROW_BYTES = 3 * 32 * 32
# All that a pickled numpy array of bytes needs, under old and new names of numpy's modules.
_PICKLE_NAMES = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}
# All the ways in which reading a damaged pickle can fail.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True)
class CIFAR10(PublishedSource):
    """CIFAR-10: 32x32 RGB in 10 classes, 50,000 training and 10,000 test images (186 MB, in memory).

    Origin: Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html; collected from the web, for research, no
    licence given.

    Args:
        root: The folder that holds ``cifar-10-batches-py/`` (torchvision's layout).
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether every file must have its published MD5 sum. Without, a stand-in of the same format
            passes.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> CIFAR10(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: CIFAR-10: root='no/such/folder' is not a folder: ...
    """

    _name: ClassVar[str] = "CIFAR-10"
    _published: ClassVar[Any] = datasets.CIFAR10
    _label_key: ClassVar[str] = "labels"
    _num_classes: ClassVar[int] = 10

    def load(self) -> SourceData:
        """Read all batches."""
        published = self._published
        folder = self.provide(self._name, (_cifar_download(published),)) / published.base_folder
        return SourceData(
            classes=self._read_class_names(folder / published.meta["filename"]),
            labelled=self._read_batches([folder / name for name, _ in published.train_list]),
            unlabelled=None,
            test=self._read_batches([folder / name for name, _ in published.test_list]),
        )

    def _read_class_names(self, path: Path) -> tuple[str, ...]:
        names = _read_pickle(self._name, path).get(self._published.meta["key"])
        if not isinstance(names, list) or len(names) != self._num_classes:
            raise UserError(f"{self._name}: {path} does not name {self._num_classes} classes: give the published file")
        return tuple(str(name) for name in names)

    def _read_batches(self, paths: list[Path]) -> ImageSet:
        batches = [self._read_batch(path) for path in paths]
        images = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, 32, 32)
        return ImageSet(images=ArrayImages(images), labels=np.concatenate([labels for _, labels in batches]))

    def _read_batch(self, path: Path) -> tuple[Any, Any]:
        content = _read_pickle(self._name, path)
        rows: Any = content.get("data")
        labels = np.asarray(content.get(self._label_key, []))
        rows_fit = isinstance(rows, np.ndarray) and rows.dtype == np.uint8 and labels.dtype.kind in "iu"
        if not rows_fit or rows.shape != (len(labels), _ROW_BYTES):
            raise UserError(
                f"{self._name}: {path} is not a batch: give 'data' (N, {_ROW_BYTES}) uint8 and N {self._label_key!r}"
            )
        check_label_range(f"{self._name}: {path}", labels, low=0, high=self._num_classes - 1)
        return rows, labels.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class CIFAR100(CIFAR10):
    """CIFAR-100: 32x32 RGB in 100 (fine) classes, 50,000 training and 10,000 test images (186 MB, in memory).

    Origin: Krizhevsky 2009, www.cs.toronto.edu/~kriz/cifar.html; collected from the web, for research, no
    licence given.

    Args:
        root: The folder that holds ``cifar-100-python/`` (torchvision's layout).
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether every file must have its published MD5 sum. Without, a stand-in of the same format
            passes.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> CIFAR100(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: CIFAR-100: root='no/such/folder' is not a folder: ...
    """

    _name: ClassVar[str] = "CIFAR-100"
    _published: ClassVar[Any] = datasets.CIFAR100
    _label_key: ClassVar[str] = "fine_labels"
    _num_classes: ClassVar[int] = 100


def _cifar_download(published: Any) -> Download:
    files = dict(published.train_list + published.test_list)
    files[published.meta["filename"]] = published.meta["md5"]
    return Download(published.url, published.filename, published.tgz_md5, published.base_folder, files)


class _ArrayUnpickler(pickle.Unpickler):  # noqa: S301 (this class is what makes it safe)
    """Reads containers and numpy arrays only, so that a file that was not verified cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLE_NAMES:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


def _read_pickle(name: str, path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            # The files were pickled by Python 2, whose byte strings need an encoding.
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except _PICKLE_ERRORS as error:
        reason = one_line(error)
        raise UserError(f"{name}: {path} cannot be read ({reason}): give the published file") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: {path} holds a {type(content).__name__}: give the published file, a dictionary")
    return content
