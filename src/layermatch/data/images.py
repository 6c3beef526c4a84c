"""Random access to the images of a data set: in memory or in a mapped file; parts of sets and several together.

Every class here returns what was asked for as one ``uint8`` batch ``(n, C, H, W)``. Nothing is normalised or
augmented: images stay ``uint8`` until they are on the device.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layermatch.data.decoding import PIL_MODES
from layermatch.data.wording import gone_text, one_line
from layermatch.errors import RunError, UserError, check_choice

__all__ = [
    "ArrayImages",
    "ConcatImages",
    "Images",
    "SubsetImages",
    "check_channels",
    "check_indices",
    "chunks_of",
    "image_bytes",
    "replace_leaves",
    "take",
]

# Where the axes N, C, H, W are found in an array stored in each layout.
_AXES = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 3, 1, 2), "NCWH": (0, 1, 3, 2)}
# Images are decoded, read and copied about so many bytes at a time: workers hand them over in shared memory, of which
# a container may have 64 MB.
_CHUNK_BYTES = 2**20


class Images(Protocol):
    """Random access to ``uint8`` images of one size.

    Example:
        >>> images: Images = ArrayImages(np.zeros((5, 3, 8, 8), np.uint8))
        >>> len(images), images.shape
        (5, (3, 8, 8))
    """

    def __len__(self) -> int:
        """Return the number of images."""
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
            IndexError: An index is outside ``[0, len(self))``.
        """
        ...


class ArrayImages:
    """Images over a numpy array or a memory map; only what is read is copied.

    A read-only map is a description of its file: :meth:`read` reads the file itself. Pages that are touched through
    the map would count as this process's memory, until one epoch has brought in the whole file; and where the file was
    cut short the system would end the process (SIGBUS), where reading is an error with a name. The file is held open:
    it may be deleted or replaced.

    Args:
        array: ``(N, ., ., .)`` ``uint8``, the last three axes as ``layout`` says. A ``np.memmap`` stays on
            disk, and is pickled as its file name, so that a worker process maps the file again instead of
            receiving the pixels.
        layout: The order of the stored axes: ``"NCHW"``, ``"NHWC"``, or ``"NCWH"`` (each plane column by column,
            as in the files of STL-10 and SVHN). Converted on read.

    Raises:
        UserError: ``array`` is not four-dimensional ``uint8``, or ``layout`` is unknown.
        RunError: The file cannot be read any more (from :meth:`read`).

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
        place = _file_of(array) if getattr(array, "mode", None) == "r" else None
        self._file = None if place is None else _OpenFile(*place)

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
        check_indices(indices, len(self))
        if self._file is not None:
            return self._read_file(self._file, indices)
        # np.asarray: picking from a memmap must give a plain array, not a memmap that no file is behind.
        picked = np.asarray(self._array)[indices]
        return np.ascontiguousarray(picked.transpose(_AXES[self._layout]))

    def _read_file(self, file: _OpenFile, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        batch = np.empty((len(indices), *self.shape), np.uint8)
        as_stored = batch.transpose(np.argsort(_AXES[self._layout]))
        image = np.empty(self._array.shape[1:], np.uint8)
        for row in np.argsort(indices):  # in the order of the file, which a slow disk is glad of
            file.read_into(image, int(indices[row]) * image.nbytes)
            as_stored[row] = image
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        place = _file_of(self._array)
        if place is not None:
            return _map_again, (*place, self._array.shape, self._layout)
        return _wrap_again, (np.asarray(self._array), self._layout)


class _OpenFile:
    """A file that stays readable when its name is deleted or given to another file.

    Args:
        path: The path of the file.
        offset: The position where its content begins, in bytes.
    """

    def __init__(self, path: str, offset: int) -> None:
        self.path = path
        self.offset = offset
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, array: NDArray[np.uint8], start: int) -> None:
        """Fill ``array`` from byte ``start`` of the content on."""
        try:
            # At a place of its own: worker processes inherit the open file, and its position with it.
            count = os.preadv(self._descriptor, [array.data], self.offset + start)
        except OSError as error:
            raise RunError(gone_text(f"the file {self.path}", one_line(error))) from error
        if count != array.nbytes:
            raise RunError(gone_text(f"the file {self.path}", "it became shorter"))


def _file_of(array: NDArray[np.uint8]) -> tuple[str, int] | None:
    """Return the file that all of ``array`` maps, row after row, and where in it the rows begin."""
    base: object = array.base
    # Only a memmap made straight from its file has the mapping itself as its base, a slice has not.
    if isinstance(array, np.memmap) and isinstance(base, mmap.mmap) and array.flags.c_contiguous:
        return str(array.filename), array.offset
    return None


def _map_again(path: str, offset: int, shape: tuple[int, ...], layout: str) -> ArrayImages:
    return ArrayImages(np.memmap(path, np.uint8, mode="r", offset=offset, shape=shape), layout=layout)


def _wrap_again(array: NDArray[np.uint8], layout: str) -> ArrayImages:
    return ArrayImages(array, layout=layout)


class ConcatImages:
    """Several sets of images one after another, without copying.

    Args:
        parts: At least one part; all have one ``shape``.

    Raises:
        UserError: There is no part, or their shapes differ.

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
        check_indices(indices, len(self))
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
        images: The set.
        indices: ``(n,)`` int64 in ``[0, len(images))``; repeats are allowed.

    Raises:
        IndexError: An index is outside the set.

    Example:
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> SubsetImages(images, np.array([3, 1])).read(np.array([0])).item()
        3
    """

    def __init__(self, images: Images, indices: NDArray[np.int64]) -> None:
        check_indices(indices, len(images))
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
        check_indices(indices, len(self))
        return self._images.read(self._indices[indices])

    def over(self, images: Images) -> SubsetImages:
        """Return the same choice from other ``images``, such as a copy of the underlying set."""
        return SubsetImages(images, self._indices)

    @property
    def whole(self) -> Images:
        """The underlying set."""
        return self._images

    @property
    def indices(self) -> NDArray[np.int64]:
        """``(n,)``, the position of each image in the underlying set."""
        return self._indices

    def take(self, indices: NDArray[np.int64]) -> SubsetImages:
        """Return the images at ``indices`` ``(n,)`` of this subset, as one subset of the underlying set."""
        check_indices(indices, len(self))
        return SubsetImages(self._images, self._indices[indices])


def take(images: Images, indices: NDArray[np.int64]) -> SubsetImages:
    """Look at some of the images of a set without copying them.

    Args:
        images: Any set of images.
        indices: ``(n,)`` int64 in ``[0, len(images))``.

    Returns:
        The ``n`` images in that order. Taking from a subset does not nest: reads go straight to the
        underlying set.

    Raises:
        IndexError: An index is outside the set.

    Example:
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> take(take(images, np.array([3, 2, 1])), np.array([2])).read(np.array([0])).item()
        1
    """
    return images.take(indices) if isinstance(images, SubsetImages) else SubsetImages(images, indices)


def replace_leaves(images: Images, make: Callable[[Images], Images]) -> Images:
    """Put other sets in the place of those that subsets and concatenations are made of.

    Args:
        images: Any set of images.
        make: It gives the set to use instead of one that is neither a subset nor a concatenation.

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


def image_bytes(images: Images) -> int:
    """Return the bytes of a set of images as uint8.

    Args:
        images: Any set of images.

    Example:
        >>> image_bytes(ArrayImages(np.zeros((5, 3, 8, 8), np.uint8)))
        960
    """
    return len(images) * int(np.prod(images.shape, dtype=np.int64))


def chunks_of(images: Images) -> list[NDArray[np.int64]]:
    """Return all positions of a set in order, as many at a time as make about a megabyte.

    Args:
        images: Any set of images.

    Example:
        >>> [len(rows) for rows in chunks_of(ArrayImages(np.zeros((5, 1, 512, 1024), np.uint8)))]
        [2, 2, 1]
    """
    rows = max(1, _CHUNK_BYTES // max(int(np.prod(images.shape, dtype=np.int64)), 1))
    return [np.arange(first, min(first + rows, len(images))) for first in range(0, len(images), rows)]


def check_channels(name: str, value: object) -> None:
    """Refuse a number of channels other than 1 (grey) and 3 (RGB).

    Args:
        name: The setting as the user writes it, for example ``channels``.
        value: What was given.

    Raises:
        UserError: ``value`` is neither 1 nor 3.

    Example:
        >>> check_channels("channels", 3)
    """
    if isinstance(value, bool) or not isinstance(value, int) or value not in PIL_MODES:
        raise UserError(f"{name}={value!r} is not legal: choose 1 (grey) or 3 (RGB)")


def check_indices(indices: NDArray[np.int64], length: int) -> None:
    """Refuse positions outside a set of images.

    Args:
        indices: ``(n,)`` whole numbers.
        length: The number of images of the set.

    Raises:
        IndexError: An index is outside ``[0, length)``.

    Example:
        >>> check_indices(np.array([0, 4]), 5)
    """
    # Negative numbers are refused: a -1 is more likely a mistake than Python's "the last one".
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise IndexError(f"indices of shape {indices.shape} and type {indices.dtype}: give whole numbers (n,)")
    if indices.size and (indices.min() < 0 or indices.max() >= length):
        raise IndexError(f"indices from {indices.min()} to {indices.max()} of {length} images")
