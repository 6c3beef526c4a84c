"""Random access to the images of a data set: in memory, in a mapped file or as image files.

Every class here returns what was asked for as one ``uint8`` batch ``(n, C, H, W)``. Nothing is normalised or
augmented: images stay ``uint8`` until they are on the device.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layermatch.errors import UserError, check_choice, check_number

__all__ = [
    "ArrayImages",
    "ConcatImages",
    "FileImages",
    "Images",
    "SubsetImages",
    "check_channels",
    "one_line",
    "replace_leaves",
    "take",
]

# Where the axes N, C, H, W are found in an array stored in each layout.
_AXES = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2), "NCWH": (0, 1, 3, 2)}
_PIL_MODES = {1: "L", 3: "RGB"}


class Images(Protocol):
    """Random access to ``uint8`` images of one size.

    Example:
        >>> images: Images = ArrayImages(np.zeros((5, 3, 8, 8), np.uint8))
        >>> len(images), images.shape
        (5, (3, 8, 8))
    """

    def __len__(self) -> int:
        """Number of images."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read some images, in the order asked for.

        Args:
            indices: ``(n,)`` whole numbers in ``[0, len(self))``; repeats are allowed.

        Returns:
            ``(n, C, H, W)``, C-contiguous, a fresh array that the caller may write to.

        Raises:
            IndexError: an index is outside ``[0, len(self))``.
        """
        ...


class ArrayImages:
    """Images over a numpy array or a memory map; only what is read is copied.

    A read-only map is a description of its file: :meth:`read` reads the file itself. Pages that are touched through
    the map would count as this process's memory, until one epoch has brought in the whole file.

    Args:
        array: ``(N, ., ., .)`` ``uint8``, the last three axes as ``layout`` says. A ``np.memmap`` stays on
            disk, and is pickled as its file name, so that a worker process maps the file again instead of
            receiving the pixels.
        layout: order of the stored axes: ``"NCHW"``, ``"NHWC"``, or ``"NCWH"`` (each plane column by column,
            as in the files of STL-10 and SVHN). Converted on read.

    Raises:
        UserError: ``array`` is not four-dimensional ``uint8``, or ``layout`` is unknown.

    Example:
        >>> stored = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        >>> images = ArrayImages(stored, layout="NHWC")
        >>> images.shape
        (3, 4, 5)
        >>> bool((images.read(np.array([1]))[0, 2] == stored[1, :, :, 2]).all())
        True
    """

    def __init__(self, array: NDArray[np.uint8], *, layout: str = "NCHW") -> None:
        check_choice("layout", layout, _AXES)
        if array.ndim != 4 or array.dtype != np.uint8:
            raise UserError(
                f"images of shape {array.shape} and type {array.dtype} are not legal: give uint8 (N, ., ., .)"
            )
        self._array = array
        self._layout = layout
        self._file = _file_of(array) if getattr(array, "mode", None) == "r" else None

    def __len__(self) -> int:
        return len(self._array)

    @property
    def is_on_disk(self) -> bool:
        """Whether the images are read from a file, and not in memory."""
        return isinstance(self._array, np.memmap)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        _, channels, height, width = (self._array.shape[axis] for axis in _AXES[self._layout])
        return channels, height, width

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy the images ``indices`` ``(n,)`` as ``(n, C, H, W)``; see :meth:`Images.read`."""
        _check_indices(indices, len(self))
        if self._file is not None:
            return self._read_file(*self._file, indices)
        # np.asarray: picking from a memmap must give a plain array, not a memmap that no file is behind.
        picked = np.asarray(self._array)[indices]
        return np.ascontiguousarray(picked.transpose(_AXES[self._layout]))

    def _read_file(self, path: str, offset: int, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        batch = np.empty((len(indices), *self.shape), np.uint8)
        as_stored = batch.transpose(np.argsort(_AXES[self._layout]))
        image = np.empty(self._array.shape[1:], np.uint8)
        try:
            # Opened for each batch: a worker process that inherits an open file would share its position.
            with Path(path).open("rb", buffering=0) as file:
                for row in np.argsort(indices):  # in the order of the file, which a slow disk is glad of
                    file.seek(offset + int(indices[row]) * image.nbytes)
                    if file.readinto(image.data) != image.nbytes:
                        raise UserError(f"{path} became shorter while it was being read")
                    as_stored[row] = image
        except OSError as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        place = _file_of(self._array)
        if place is not None:
            return _map_again, (*place, self._array.shape, self._layout)
        return _wrap_again, (np.asarray(self._array), self._layout)


def _file_of(array: NDArray[np.uint8]) -> tuple[str, int] | None:
    """The file that all of ``array`` maps, row after row, and where in it the rows begin."""
    base: object = array.base
    # Only a memmap made straight from its file has the mapping itself as its base, a slice has not.
    if isinstance(array, np.memmap) and isinstance(base, mmap.mmap) and array.flags.c_contiguous:
        return str(array.filename), array.offset
    return None


def _map_again(path: str, offset: int, shape: tuple[int, ...], layout: str) -> ArrayImages:
    return ArrayImages(np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape), layout=layout)


def _wrap_again(array: NDArray[np.uint8], layout: str) -> ArrayImages:
    return ArrayImages(array, layout=layout)


class FileImages:
    """Images decoded from files on read, with Pillow.

    Each image is converted to RGB (``channels=3``; transparency is dropped) or grey (``channels=1``); unless
    it already is ``size x size``, its short side is resized to ``size`` (bicubic, with antialiasing) and the
    centre ``size x size`` is cut out: what torchvision's ``Resize(size, BICUBIC)`` and ``CenterCrop(size)``
    do. Orientation tags of cameras are not applied, as in torchvision's ``ImageFolder``.

    Args:
        paths: one file an image.
        size: height and width in pixels, at least 1.
        channels: 1 or 3.

    Raises:
        UserError: ``size`` or ``channels`` is illegal. :meth:`read` raises it for a file that is no readable
            8-bit image.

    Example:
        >>> FileImages(["cat.png", "dog.jpg"], size=32).shape
        (3, 32, 32)
    """

    def __init__(self, paths: Sequence[str | Path], *, size: int, channels: int = 3) -> None:
        check_number("image_size", size, low=1, integer=True)
        check_channels("channels", channels)
        self._paths = tuple(str(path) for path in paths)
        self._size = size
        self._channels = channels

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The file of each image."""
        return self._paths

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._channels, self._size, self._size

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode the images ``indices`` ``(n,)`` to ``(n, C, H, W)``; see :meth:`Images.read`."""
        _check_indices(indices, len(self))
        batch = np.empty((len(indices), *self.shape), np.uint8)
        for row, index in enumerate(indices):
            pixels = np.asarray(self._decode(self._paths[index]))
            batch[row] = pixels if self._channels == 1 else pixels.transpose(2, 0, 1)
        return batch

    def _decode(self, path: str) -> Image.Image:
        # What Pillow raises for a broken file; SyntaxError is for PNG.
        try:
            with Image.open(path) as file:
                image = _convert(file, _PIL_MODES[self._channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"cannot read the image {path}: {one_line(error)}") from error
        return _resize_and_crop(image, self._size)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would clip these at 255, which leaves a white image
        raise ValueError(f"its pixels (mode {image.mode}) are not 8-bit; save it with 8 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image.convert(mode)


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    if short != size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


class ConcatImages:
    """Several sets of images one after another, without copying.

    Args:
        parts: at least one; all of one ``shape``.

    Raises:
        UserError: there is no part, or their shapes differ.

    Example:
        >>> black, white = np.zeros((2, 1, 4, 4), np.uint8), np.full((3, 1, 4, 4), 255, np.uint8)
        >>> images = ConcatImages([ArrayImages(black), ArrayImages(white)])
        >>> len(images), images.read(np.array([4, 0]))[:, 0, 0, 0].tolist()
        (5, [255, 0])
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        shapes = sorted({part.shape for part in parts})
        if len(shapes) != 1:
            raise UserError(f"image shapes {shapes} cannot be put together: give parts of one shape (C, H, W)")
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def parts(self) -> tuple[Images, ...]:
        """The sets that follow one another."""
        return self._parts

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._parts[0].shape

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read each part's share of ``indices`` ``(n,)`` into ``(n, C, H, W)``; see :meth:`Images.read`."""
        _check_indices(indices, len(self))
        owners = np.searchsorted(self._ends, indices, side="right")
        batch = np.empty((len(indices), *self.shape), np.uint8)
        for owner in np.unique(owners):
            rows = owners == owner
            start = self._ends[owner] - len(self._parts[owner])
            batch[rows] = self._parts[owner].read(indices[rows] - start)
        return batch


class SubsetImages:
    """Some of the images of a set, in a given order, without copying. Made by :func:`take`.

    Args:
        images: the set.
        indices: ``(n,)`` int64 in ``[0, len(images))``; repeats are allowed.

    Raises:
        IndexError: an index is outside the set.

    Example:
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> SubsetImages(images, np.array([3, 1])).read(np.array([0])).item()
        3
    """

    def __init__(self, images: Images, indices: NDArray[np.int64]) -> None:
        _check_indices(indices, len(images))
        self._images = images
        self._indices = np.array(indices, np.int64)  # a copy: the caller's array may change

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._images.shape

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the images ``indices`` ``(n,)`` of the subset as ``(n, C, H, W)``; see :meth:`Images.read`."""
        _check_indices(indices, len(self))
        return self._images.read(self._indices[indices])

    def over(self, images: Images) -> SubsetImages:
        """The same choice from other ``images``, such as a copy of the underlying set."""
        return SubsetImages(images, self._indices)

    @property
    def whole(self) -> Images:
        """The underlying set."""
        return self._images

    def take(self, indices: NDArray[np.int64]) -> SubsetImages:
        """The images at ``indices`` ``(n,)`` of this subset, as one subset of the underlying set."""
        _check_indices(indices, len(self))
        return SubsetImages(self._images, self._indices[indices])


def take(images: Images, indices: NDArray[np.int64]) -> SubsetImages:
    """Look at some of the images of a set without copying them.

    Args:
        images: any set of images.
        indices: ``(n,)`` int64 in ``[0, len(images))``.

    Returns:
        The ``n`` images in that order. Taking from a subset does not nest: reads go straight to the
        underlying set.

    Raises:
        IndexError: an index is outside the set.

    Example:
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> take(take(images, np.array([3, 2, 1])), np.array([2])).read(np.array([0])).item()
        1
    """
    return images.take(indices) if isinstance(images, SubsetImages) else SubsetImages(images, indices)


def replace_leaves(images: Images, make: Callable[[Images], Images]) -> Images:
    """Put other sets in the place of those that subsets and concatenations are made of.

    Args:
        images: any set of images.
        make: gives the set to use instead of one that is neither a subset nor a concatenation.

    Returns:
        The same images in the same order, read from what ``make`` gave.

    Example:
        >>> stored = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> inverted = ArrayImages(255 - stored.read(np.arange(4)))
        >>> replace_leaves(take(stored, np.array([3])), lambda images: inverted).read(np.array([0])).item()
        252
    """
    if isinstance(images, ConcatImages):
        return ConcatImages([replace_leaves(part, make) for part in images.parts])
    if isinstance(images, SubsetImages):
        return images.over(replace_leaves(images.whole, make))
    return make(images)


def check_channels(name: str, value: object) -> None:
    """Refuse a number of channels other than 1 (grey) and 3 (RGB).

    Args:
        name: the setting as the user writes it, for example ``data.channels``.
        value: what was given.

    Raises:
        UserError: ``value`` is neither 1 nor 3.

    Example:
        >>> check_channels("data.channels", 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value not in _PIL_MODES:
        raise UserError(f"{name}={value!r} is not legal: choose 1 (grey) or 3 (RGB)")


def one_line(error: Exception) -> str:
    """What an exception of another library says, on one line.

    Args:
        error: any exception.

    Returns:
        Its text without line breaks, or its name where it has no text.

    Example:
        >>> one_line(OSError("no   space")), one_line(EOFError())
        ('no space', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def _check_indices(indices: NDArray[np.int64], length: int) -> None:
    # Negative numbers are refused: a -1 is more likely a mistake than Python's "the last one".
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise IndexError(f"indices of shape {indices.shape} and type {indices.dtype}: give whole numbers (n,)")
    if indices.size and (indices.min() < 0 or indices.max() >= length):
        raise IndexError(f"indices from {indices.min()} to {indices.max()} of {length} images")
