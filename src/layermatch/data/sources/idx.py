"""MNIST and Fashion-MNIST in their IDX files, plain or compressed with gzip."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import ImageSet, SourceData, check_label_range, shorten
from layermatch.data.sources.published import Download, PublishedSource, provide_files
from layermatch.data.wording import one_line
from layermatch.errors import UserError
from layermatch.paths import expand, is_file, is_folder

__all__ = ["MNIST", "FashionMNIST"]

#: The first four bytes of a file of unsigned bytes are 0, 0, this, and the number of axes; the sizes of the axes
#: follow, four bytes each, the highest first.
_UNSIGNED_BYTES = 8
_NUM_CLASSES = 10
_SIDE = 28
# All the ways in which reading a damaged or half-written file can fail.
_READ_ERRORS = (OSError, EOFError, zlib.error)


@dataclass(frozen=True, kw_only=True)
class MNIST(PublishedSource):
    """MNIST: handwritten digits, 28x28 grey in 10 classes, 60,000 training and 10,000 test images (55 MB, in memory).

    Origin: LeCun, Cortes and Burges 1998, made from digits of NIST's special databases; CC BY-SA 3.0.

    Files are looked for in ``root/MNIST/raw``, where torchvision puts them, and then in ``root`` itself; each may be
    plain or end with ``.gz``. A download goes to the first of these folders.

    Args:
        root: The folder that holds ``MNIST/raw/``, or the four files themselves.
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether the content of every file must have its MD5 sum. Without, a stand-in of the same format passes.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> MNIST(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: MNIST: root='no/such/folder' is not a folder: ...
    """

    _name: ClassVar[str] = "MNIST"
    _published: ClassVar[Any] = datasets.MNIST
    _classes: ClassVar[tuple[str, ...]] = tuple("0123456789")
    # Sums of the contents: those that torchvision knows are of gzip's files, whose heads name a time and a file.
    _sums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def load(self) -> SourceData:
        """Read the four files."""
        files = self._find_all()
        contents = {name: self._read(name, path) for name, path in files.items()}
        return SourceData(
            classes=self._classes,
            labelled=self._part("train", files, contents),
            unlabelled=None,
            test=self._part("t10k", files, contents),
        )

    def _find_all(self) -> dict[str, Path]:
        """Return the file of each content; those that are missing are fetched, or named."""
        root = expand("root", self.root, "a folder")
        folder = root / self._published.__name__ / "raw"
        missing = [name for name in self._sums if _find(name, folder, root) is None]
        if missing and not self.download:
            where = f"found in {folder} or in {root}" if is_folder(root) else "found"
            problem = "" if is_folder(root) else f"root={str(root)!r} is not a folder: "
            raise UserError(
                f"{self._name}: {problem}{shorten(missing)} not {where}, plain or with .gz: they come from "
                f"{self._published.mirrors[0]} and download=true fetches them"
            )
        downloads = [self._download(name) for name in missing]
        provide_files(self._name, folder, tuple(downloads), download=True, verify=False)
        found = {name: _find(name, folder, root) for name in self._sums}
        return {name: path for name, path in found.items() if path is not None}

    def _download(self, name: str) -> Download:
        archive = f"{name}.gz"
        address = f"{self._published.mirrors[0]}{archive}"
        return Download(address, archive, dict(self._published.resources)[archive], "", {name: None})

    def _read(self, name: str, path: Path) -> NDArray[np.uint8]:
        """Return a file's array, after a look at its sum."""
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except _READ_ERRORS as error:
            raise UserError(
                f"{self._name}: {path} cannot be read ({one_line(error)}): give the published file"
            ) from error
        if self.verify and hashlib.md5(content, usedforsecurity=False).hexdigest() != self._sums[name]:
            raise UserError(
                f"{self._name}: {path} does not hold the published images (another MD5 checksum): move it away and "
                f"fetch it again from {self._published.mirrors[0]}, or verify=false skips this check"
            )
        return _array(f"{self._name}: {path}", content, num_axes=3 if "images" in name else 1)

    def _part(self, part: str, files: Mapping[str, Path], contents: Mapping[str, NDArray[np.uint8]]) -> ImageSet:
        images, labels = contents[f"{part}-images-idx3-ubyte"], contents[f"{part}-labels-idx1-ubyte"]
        if images.shape[1:] != (_SIDE, _SIDE) or not len(images):
            raise UserError(
                f"{self._name}: {files[f'{part}-images-idx3-ubyte']} has images of shape {images.shape}: give "
                f"(N, {_SIDE}, {_SIDE}), N at least 1"
            )
        path = files[f"{part}-labels-idx1-ubyte"]
        if len(labels) != len(images):
            raise UserError(
                f"{self._name}: {path} has {len(labels)} labels for {len(images)} images: give one byte an image"
            )
        check_label_range(f"{self._name}: {path}", labels, low=0, high=_NUM_CLASSES - 1)
        return ImageSet(images=ArrayImages(images[:, None]), labels=labels.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(MNIST):
    """Fashion-MNIST: pieces of clothing, 28x28 grey in 10 classes, 60,000 training and 10,000 test images.

    Origin: Xiao, Rasul and Vollgraf 2017, github.com/zalandoresearch/fashion-mnist; MIT licence. It takes 55 MB, in
    memory.

    Files are looked for in ``root/FashionMNIST/raw``, where torchvision puts them, and then in ``root`` itself; each
    may be plain or end with ``.gz``, as those of Debian's package ``dataset-fashion-mnist`` in
    ``/usr/share/datasets/fashion-mnist`` do. A download goes to the first of these folders.

    Args:
        root: The folder that holds ``FashionMNIST/raw/``, or the four files themselves.
        download: Whether to fetch missing files into ``root``; files that are there are never replaced.
        verify: Whether the content of every file must have its MD5 sum. Without, a stand-in of the same format passes.

    Raises:
        UserError: A value is not legal; from :meth:`load`, files are missing or not what they should be.

    Example:
        >>> FashionMNIST(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: Fashion-MNIST: root='no/such/folder' is not a folder: ...
    """

    _name: ClassVar[str] = "Fashion-MNIST"
    _published: ClassVar[Any] = datasets.FashionMNIST
    _classes: ClassVar[tuple[str, ...]] = tuple(datasets.FashionMNIST.classes)
    _sums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


def _find(name: str, *folders: Path) -> Path | None:
    places = (folder / file for folder in folders for file in (name, f"{name}.gz"))
    return next((path for path in places if is_file(path)), None)


def _array(what: str, content: bytes, *, num_axes: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file."""
    head = 4 + 4 * num_axes
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTES, num_axes)) or len(content) < head:
        raise UserError(f"{what} is no IDX file of unsigned bytes with {num_axes} axes: give the published file")
    shape = tuple(np.frombuffer(content, ">u4", count=num_axes, offset=4).tolist())
    if len(content) - head != math.prod(shape):
        raise UserError(
            f"{what} holds {len(content) - head:,} bytes, but says {'x'.join(map(str, shape))}: give the whole file"
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)
