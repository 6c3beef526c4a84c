"""Sets of images that lie in blocks, such as the shards of a data set, and an endless order that reads few at once."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import ConcatImages, Images, SubsetImages

__all__ = ["BlockOrder", "Blocks", "InBlocks", "KeptImages", "blocks_of"]

#: Images beside those in blocks, such as some in memory, are taken for blocks of so many.
_PIECE = 8192

_Rows = NDArray[np.int64]


class Blocks(NamedTuple):
    """How a set of images is cut into blocks.

    Attributes:
        ends: ``(K,)`` int64, the position behind the last image of each block; no block is empty.
        window: The number of blocks whose images are mixed with each other.
    """

    ends: _Rows
    window: int

    @property
    def sizes(self) -> _Rows:
        """``(K,)``, the number of images of each block."""
        return np.diff(self.ends, prepend=0)


@runtime_checkable
class InBlocks(Protocol):
    """Images of which those of one block are cheap to read together.

    Attributes:
        ends: ``(K,)`` int64, the position behind the last image of each block.
        window: See :class:`Blocks`.
    """

    ends: _Rows
    window: int


class KeptImages:
    """A copy of images in blocks that is kept elsewhere, and read in the same order.

    Args:
        images: The copy.
        like: The images that it was made of.

    Example:
        >>> from layermatch.data.images import ArrayImages
        >>> copy = ArrayImages(np.zeros((2, 1, 4, 4), np.uint8))
        >>> first = KeptImages(copy, like=Blocks(np.array([1, 2]), window=1))
        >>> blocks_of(first).ends.tolist()
        [1, 2]
    """

    def __init__(self, images: Images, *, like: InBlocks) -> None:
        self._images = images
        self.ends, self.window = like.ends, like.window

    def __len__(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._images.shape

    def read(self, indices: _Rows) -> NDArray[np.uint8]:
        """Read the images ``indices`` ``(n,)``; see :meth:`~layermatch.data.images.Images.read`."""
        return self._images.read(indices)


def blocks_of(images: Images) -> Blocks | None:
    """Return how a set is cut into blocks, also a part of one and several together; None if none of it is.

    Args:
        images: Any set of images. Where a part of a set goes back and forth between blocks, each stretch of images of
            one block is a block of its own.

    Example:
        >>> from layermatch.data.images import ArrayImages, take
        >>> images = ArrayImages(np.zeros((5, 1, 4, 4), np.uint8))
        >>> blocks_of(images) is None
        True
        >>> in_blocks = KeptImages(images, like=Blocks(np.array([2, 5]), window=1))
        >>> blocks_of(take(in_blocks, np.array([1, 2, 4]))).ends.tolist()
        [1, 3]
    """
    if isinstance(images, ConcatImages):
        return _of_several(images)
    if isinstance(images, SubsetImages):
        whole = blocks_of(images.whole)
        if whole is None or not len(images):
            return None
        owners = np.searchsorted(whole.ends, images.indices, side="right")
        return Blocks(np.append(np.flatnonzero(np.diff(owners)) + 1, len(images)), whole.window)
    return Blocks(images.ends, images.window) if isinstance(images, InBlocks) else None


def _of_several(images: ConcatImages) -> Blocks | None:
    found = [blocks_of(part) for part in images.parts]
    window = max((blocks.window for blocks in found if blocks is not None), default=0)
    if not window:
        return None
    ends, start = [], 0
    for part, blocks in zip(images.parts, found, strict=True):
        ends.append(start + (_pieces(len(part)) if blocks is None else blocks.ends))
        start += len(part)
    return Blocks(np.concatenate(ends), window)


def _pieces(count: int) -> _Rows:
    return np.append(np.arange(_PIECE, count, _PIECE), [count] if count else []).astype(np.int64)


class BlockOrder:
    """An endless sequence of epochs over images in blocks, with random access.

    In each epoch every image comes once. The blocks are shuffled; then come the images of the first ``window`` blocks,
    shuffled together, those of the next, and so on. Both orders are pure functions of (seed, stream, epoch). What is in
    memory does not grow with the number of images: it is the number of blocks, and the images of a window.

    Args:
        blocks: How the set is cut.
        seed: A whole number, at least 0.
        stream: The number of one of the seed's sequences, at least 0.

    Example:
        >>> order = BlockOrder(Blocks(np.array([3, 5, 9]), window=2), seed=0, stream=1)
        >>> sorted(order.positions(start=9, count=9).tolist()) == list(range(9))
        True
        >>> bool((order.positions(start=4, count=3) == order.positions(start=0, count=9)[4:7]).all())
        True
    """

    def __init__(self, blocks: Blocks, *, seed: int, stream: int) -> None:
        self._sizes = blocks.sizes
        self._starts = blocks.ends - self._sizes
        self._size = int(blocks.ends[-1])
        self._of_window = blocks.window
        self._seed, self._stream = seed, stream
        # What was computed last, as the next batch asks for the same: neither has an influence on what is returned.
        self._epoch: tuple[int, _Rows, _Rows] | None = None
        self._window: tuple[int, int, _Rows] | None = None

    def positions(self, *, start: int, count: int) -> _Rows:
        """Return a stretch of the sequence.

        Args:
            start: Its first position, at least 0.
            count: The number of positions, at least 0.

        Returns:
            ``(count,)`` positions in the set.
        """
        pieces = [np.empty(0, np.int64)]
        position, end = start, start + count
        while position < end:
            epoch, offset = divmod(position, self._size)
            _, ends = self._blocks_of_epoch(epoch)
            window = int(np.searchsorted(ends, offset, side="right"))
            begin = int(ends[window - 1]) if window else 0
            pieces.append(self._rows_of_window(epoch, window)[offset - begin : offset - begin + end - position])
            position += len(pieces[-1])
        return np.concatenate(pieces)

    def _blocks_of_epoch(self, epoch: int) -> tuple[_Rows, _Rows]:
        """Return the order of the blocks in an epoch, and where its windows end."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = self._generator(epoch).permutation(len(self._sizes))
            ends = np.cumsum(self._sizes[order])
            places = np.minimum(np.arange(self._of_window, len(ends) + self._of_window, self._of_window), len(ends)) - 1
            self._epoch = epoch, order, ends[places]
        return self._epoch[1:]

    def _rows_of_window(self, epoch: int, window: int) -> _Rows:
        if self._window is None or self._window[:2] != (epoch, window):
            order, _ = self._blocks_of_epoch(epoch)
            blocks = order[window * self._of_window : (window + 1) * self._of_window]
            rows = np.concatenate([np.arange(self._starts[k], self._starts[k] + self._sizes[k]) for k in blocks])
            self._window = epoch, window, self._generator(epoch, window).permutation(rows)
        return self._window[2]

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._stream, *place)))
