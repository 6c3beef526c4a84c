"""Random access to the images in shards: each is read from its place in the tar file, and decoded each time."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.data.decoding import ImageFileError, decode_bytes
from layermatch.data.images import check_channels, check_indices
from layermatch.data.shard_index import ShardIndex
from layermatch.data.wording import gone_text, one_line, printable
from layermatch.errors import RunError, check_number

__all__ = ["ChosenImages", "Shard", "ShardImages", "StreamedImages"]

#: The most shards that a process has open at once, whatever the window: systems allow a thousand files or so.
_MOST_OPEN = 64

_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """A shard of a data set.

    Args:
        path: The path of the tar file.
        index: The path of its index, see :class:`~layermatch.data.shard_index.ShardIndex`.
        size: The number of samples with an image.
    """

    path: str
    index: str
    size: int


class ShardImages:
    """Images in shards; the base of :class:`StreamedImages` and :class:`ChosenImages`.

    In memory are the places of the images of the shards that were read last, twice as many as a window has, and
    nothing that grows with the number of images. The bytes of a batch are asked for all at once, and then read one
    after another in the order of the files: over a network the answers come together.

    Args:
        shards: The shards.
        ends: ``(K,)`` int64, the position behind the last image of each shard that has some.
        places: ``(K,)`` int64, which of the shards these are.
        size: The height and width in pixels that images get, at least 1.
        channels: 1 or 3.
        window: The number of shards whose images are mixed, at least 1.

    Raises:
        UserError: A number is not legal.
        RunError: A shard or an image cannot be read any more (from :meth:`read`).
    """

    def __init__(
        self, shards: Sequence[Shard], ends: _Rows, places: _Rows, *, size: int, channels: int, window: int
    ) -> None:
        check_number("image_size", size, low=1, integer=True)
        check_channels("channels", channels)
        check_number("window", window, low=1, integer=True)
        self.shards = tuple(shards)
        self.ends, self.window = ends, window
        self._places = places
        self._size, self._channels = size, channels
        self._most_open = min(2 * window, _MOST_OPEN)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        return self._channels, self._size, self._size

    def read(self, indices: _Rows) -> NDArray[np.uint8]:
        """Read and decode the images ``indices`` ``(n,)``; see :meth:`~layermatch.data.images.Images.read`."""
        check_indices(indices, len(self))
        batch = np.empty((len(indices), *self.shape), np.uint8)
        block = np.searchsorted(self.ends, indices, side="right")
        inside = indices - np.append(0, self.ends)[block]
        found = self._rows(block, inside)
        order = np.lexsort((found, block))  # that of the files
        blocks = np.unique(block)
        for few in np.array_split(blocks, -(-len(blocks) // self._most_open) or 1):  # as many as may be open
            opened = {int(k): self._shard(int(self._places[k])) for k in few}
            rows = [row for row in order.tolist() if int(block[row]) in opened]
            for row in rows:
                opened[int(block[row])].announce(int(found[row]))
            for row in rows:
                batch[row] = self._decoded(opened[int(block[row])], int(found[row]))
        return batch

    def _decoded(self, shard: _OpenShard, row: int) -> NDArray[np.uint8]:
        channels, size, _ = self.shape
        try:
            return decode_bytes(shard.read(row), size=size, channels=channels, name="")
        except ImageFileError as error:
            raise RunError(
                f"the image {shard.name_of(row)} cannot be decoded: {error.reason}: write its shard anew without it"
            ) from error

    def _rows(self, block: _Rows, inside: _Rows) -> _Rows:
        """Return the place in its shard of each image, by its place among those of the shard that are in this set."""
        raise NotImplementedError

    def _shard(self, place: int) -> _OpenShard:
        """Return a shard, opened; of those that were opened the ones used last stay so."""
        if place in self._open:
            self._open.move_to_end(place)
            return self._open[place]
        opened = self._open[place] = _OpenShard(self.shards[place])
        while len(self._open) > self._most_open:
            self._open.popitem(last=False)
        return opened

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens the files for itself.
        return self.__dict__ | {"_open": OrderedDict()}


class StreamedImages(ShardImages):
    """The images in shards that have no label, however many they are.

    Args:
        shards: The shards.
        taken: The places of the samples of each shard that are not in this set, such as labelled ones; sorted.
        size: The height and width in pixels that images get.
        channels: 1 or 3.
        window: The number of shards whose images are mixed.
        counts: The number of images that each shard has in this set, its first ones; None takes all of them.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        taken: Sequence[_Rows],
        *,
        size: int,
        channels: int,
        window: int,
        counts: _Rows | None = None,
    ) -> None:
        if counts is None:
            counts = np.array([shard.size - len(rows) for shard, rows in zip(shards, taken, strict=True)], np.int64)
        places = np.flatnonzero(counts)
        super().__init__(shards, np.cumsum(counts[places]), places, size=size, channels=channels, window=window)
        self._taken = tuple(taken)
        # How many samples of the set come before each that is not in it.
        self._before = tuple(rows - np.arange(len(rows)) for rows in taken)

    def first(self, counts: _Rows) -> StreamedImages:
        """Return the first images of some shards.

        Args:
            counts: ``(K,)``, how many of each block of this set, 0 for none.
        """
        whole = np.zeros(len(self.shards), np.int64)
        whole[self._places] = counts
        channels, size, _ = self.shape
        return StreamedImages(self.shards, self._taken, size=size, channels=channels, window=self.window, counts=whole)

    def _rows(self, block: _Rows, inside: _Rows) -> _Rows:
        rows = inside.copy()
        for k in np.unique(block).tolist():
            of_block = block == k
            rows[of_block] += np.searchsorted(self._before[self._places[k]], inside[of_block], side="right")
        return rows


class ChosenImages(ShardImages):
    """Images in shards that are named one by one, such as labelled ones.

    Args:
        shards: The shards.
        rows: The places of the samples of each shard that are in this set, sorted.
        size: The height and width in pixels that images get.
        channels: 1 or 3.
        window: The number of shards whose images are mixed.
    """

    def __init__(
        self, shards: Sequence[Shard], rows: Sequence[_Rows], *, size: int, channels: int, window: int
    ) -> None:
        counts = np.array([len(each) for each in rows], np.int64)
        places = np.flatnonzero(counts)
        super().__init__(shards, np.cumsum(counts[places]), places, size=size, channels=channels, window=window)
        self._chosen = np.concatenate([np.empty(0, np.int64), *rows])

    def _rows(self, block: _Rows, inside: _Rows) -> _Rows:
        rows: _Rows = self._chosen[np.append(0, self.ends)[block] + inside]
        return rows


class _OpenShard:
    """A shard that is being read from.

    Args:
        shard: The shard.

    Raises:
        RunError: It is not there, or not as its index says.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        index = ShardIndex.load(Path(shard.index), names=False)
        if index is None:
            raise RunError(gone_text(f"the index {printable(shard.index)} of a shard", "it is not there, or not whole"))
        self._offsets, self._sizes = index.offsets, index.sizes
        try:
            self._descriptor = os.open(shard.path, os.O_RDONLY)
        except OSError as error:
            raise self._gone(error.strerror or one_line(error)) from error
        weakref.finalize(self, os.close, self._descriptor)
        if os.fstat(self._descriptor).st_size != index.size:
            raise self._gone("its size is another one")

    def announce(self, row: int) -> None:
        """Let the system fetch an image while others are read."""
        if hasattr(os, "posix_fadvise"):
            place = int(self._offsets[row]), int(self._sizes[row])
            os.posix_fadvise(self._descriptor, *place, os.POSIX_FADV_WILLNEED)

    def read(self, row: int) -> bytes:
        """Return the bytes of an image."""
        size = int(self._sizes[row])
        try:
            # At a place of its own: worker processes inherit the open file, and its position with it.
            content = os.pread(self._descriptor, size, int(self._offsets[row]))
        except OSError as error:
            raise self._gone(one_line(error)) from error
        if len(content) != size:
            raise self._gone("it became shorter")
        return content

    def name_of(self, row: int) -> str:
        """Return the shard and the member of an image, for messages."""
        index = ShardIndex.load(Path(self._shard.index))
        member = f"number {row}" if index is None else index.names[row]
        return printable(f"{self._shard.path}/{member}")

    def _gone(self, reason: str) -> RunError:
        return RunError(gone_text(f"the shard {printable(self._shard.path)}", reason))
