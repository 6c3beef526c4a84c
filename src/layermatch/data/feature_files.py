"""Files of kept features: rows of numbers, and behind them a mark for each block of rows that is there."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layermatch.data.images import check_indices
from layermatch.data.wording import one_line
from layermatch.errors import RunError
from layermatch.files import replacing

__all__ = ["BLOCK", "DTYPES", "FeatureFile", "FeatureImages", "Marks", "as_features"]

#: What a feature is kept as, and the type of its bytes in the file.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Images of a block: what is computed together, and is there or is not.
BLOCK = 32
#: Seconds between two times that blocks are marked: what a kill loses.
_MARK_EVERY = 2.0


class FeatureFile:
    """One pass over a set of images: ``N`` rows of ``D`` numbers, and behind them a byte for each block that is there.

    Args:
        path: The path of the file, there or not.
        count: N, the number of images.
        width: D, the width of the features.
        dtype: One of :data:`DTYPES`.
    """

    def __init__(self, path: Path, *, count: int, width: int, dtype: str) -> None:
        self.path = path
        self.count = count
        self.dtype = dtype
        self.row_bytes = width * DTYPES[dtype].itemsize
        self.num_blocks = -(-count // BLOCK)

    @property
    def _size(self) -> int:
        return self.count * self.row_bytes + self.num_blocks

    def rows_of(self, block: int) -> NDArray[np.int64]:
        """Return the positions of the images of a block, ``(n,)``."""
        return np.arange(block * BLOCK, min((block + 1) * BLOCK, self.count))

    def finished(self) -> NDArray[np.bool_]:
        """Return which blocks are there, ``(num_blocks,)``; none where there is no file of this size."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == self._size:
                    file.seek(self.count * self.row_bytes)
                    marks: NDArray[np.bool_] = np.frombuffer(file.read(), np.uint8) == 1
                    return marks
        except OSError:
            pass
        return np.zeros(self.num_blocks, np.bool_)

    def make(self) -> None:
        """Make an empty file of the whole size, where there is none; what is not written takes no room."""
        if self.path.is_file() and self.path.stat().st_size == self._size:
            return
        with replacing(self.path) as unfinished, unfinished.open("wb") as file:
            file.truncate(self._size)

    def write(self, block: int, features: Tensor) -> None:
        """Write a block, which is there once it is marked.

        Args:
            block: The number of the block.
            features: ``(n, D)``, on the CPU.

        Raises:
            OSError: It cannot be written.
        """
        content = features.to(DTYPES[self.dtype]).contiguous().view(torch.uint8).numpy().data
        with self.path.open("r+b") as file:
            # Plain writes, not a map: a full disk is then an error, and not the end of the process.
            file.seek(block * BLOCK * self.row_bytes)
            file.write(content)

    def mark(self, blocks: Sequence[int]) -> None:
        """Note that blocks are there.

        Args:
            blocks: Their numbers; they are written.

        Raises:
            OSError: It cannot be written.
        """
        with self.path.open("r+b") as file:
            os.fsync(file.fileno())  # a machine that stops now must not keep the mark alone
            for block in blocks:
                file.seek(self.count * self.row_bytes + block)
                file.write(b"\1")

    def open(self) -> FeatureImages:
        """Return the rows, mapped."""
        return FeatureImages(self.path, count=self.count, row_bytes=self.row_bytes)


class FeatureImages:
    """Rows of features in the place of images, ``(bytes, 1, 1)`` each, so that what picks images picks them.

    Args:
        path: The path of the file; it is held open, and may be deleted or replaced.
        count: The number of rows.
        row_bytes: The bytes of a row.
    """

    def __init__(self, path: Path, *, count: int, row_bytes: int) -> None:
        self._place = path, count, row_bytes
        try:
            self._rows = np.memmap(path, np.uint8, mode="r", shape=(count, row_bytes))
        except (OSError, ValueError) as error:
            raise RunError(f"the features in {path} cannot be read ({one_line(error)}): start again") from error

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The bytes of a row, as ``(C, H, W)``."""
        return self._rows.shape[1], 1, 1

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read rows ``(n,)`` as ``(n, bytes, 1, 1)``; see :meth:`~layermatch.data.images.Images.read`."""
        check_indices(indices, len(self))
        return np.asarray(self._rows)[indices][:, :, None, None]

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, self._place


def _open_again(path: Path, count: int, row_bytes: int) -> FeatureImages:
    return FeatureImages(path, count=count, row_bytes=row_bytes)


def as_features(rows: Tensor, dtype: str) -> Tensor:
    """Return what :meth:`FeatureImages.read` gave as ``(n, D)`` float32."""
    return rows.flatten(1).contiguous().view(DTYPES[dtype]).to(torch.float32)


class Marks:
    """Marks blocks some seconds after they were written, as each time waits for the disk; at the end, all of them."""

    def __init__(self) -> None:
        self._written: dict[FeatureFile, list[int]] = {}
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:  # also what was written before the user stopped it
        self._mark()

    def add(self, file: FeatureFile, block: int) -> None:
        """Note a block that is written."""
        self._written.setdefault(file, []).append(block)
        if time.monotonic() - self._since >= _MARK_EVERY:
            self._mark()

    def _mark(self) -> None:
        for file, blocks in self._written.items():
            file.mark(blocks)
        self._written = {}
        self._since = time.monotonic()
