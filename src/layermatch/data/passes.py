"""One pass over all images of a set before training: by several processes, with a bar and a list of bad files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Dataset

from layermatch.console import Reporter
from layermatch.data.file_images import FileImages
from layermatch.data.images import Images, chunks_of
from layermatch.data.loader import BatchLoader, loader_errors
from layermatch.data.wording import printable
from layermatch.errors import UserError

__all__ = ["BadFiles", "check_all", "folder_of", "progress", "read_all"]

#: Fewer image files than this are decoded in this process: it takes less time than to start others.
_FEW_FILES = 500
_MAX_WORKERS = 8
#: Seconds between two lines about the progress of a pass.
_LINE_EVERY = 20.0
_CHECKED_AT_ONCE = 16
#: Bad files that are named on the terminal.
_NAMED = 20


class BadFiles:
    """Image files that cannot be used, gathered so that the user hears of all of them at once.

    Example:
        >>> bad = BadFiles()
        >>> bad.add([("/pets/cat/1.png", "it is empty")])
        >>> bad.refuse(["/pets/cat/1.png", "/pets/dog/1.png"])
        Traceback (most recent call last):
        layermatch.errors.UserError: 1 of 2 image files below /pets cannot be used: remove or repair it
          cat/1.png: it is empty
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        """Note files, each with what is wrong with it, on one line."""
        self._reasons.update(found)

    def has_any_of(self, paths: Iterable[str]) -> bool:
        """Whether one of these files is bad."""
        return any(path in self._reasons for path in paths)

    def refuse(self, paths: Sequence[str], *, write_list: Callable[[Iterable[str]], Path | None] | None = None) -> None:
        """Raise the list, if a file is bad.

        Args:
            paths: All files that were looked at.
            write_list: It keeps all lines of a list that is too long for the terminal, and says where.

        Raises:
            UserError: A line that says how many and what to do, and a line for each of the first 20.
        """
        if not self._reasons:
            return
        folder, count = folder_of(paths), len(self._reasons)
        head = f"{count:,} of {len(paths):,} image files below {printable(folder)} cannot be used: remove or repair "
        lines = [f"  {printable(os.path.relpath(path, folder))}: {why}" for path, why in sorted(self._reasons.items())]
        if count > _NAMED:
            every = (f"{printable(path)}: {why}\n" for path, why in sorted(self._reasons.items()))
            place = None if write_list is None else write_list(every)
            lines[_NAMED:] = [f"  and {count - _NAMED:,} more" + (f", all of them in {place}" if place else "")]
        raise UserError("\n".join([head + ("it" if count == 1 else "them"), *lines]))


def folder_of(paths: Sequence[str]) -> str:
    """The deepest folder that all files are below, an absolute path.

    Args:
        paths: The files, at least one.

    Example:
        >>> folder_of(["/pets/cat/1.png", "/pets/dog/1.png"])
        '/pets'
    """
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 -- 100,000 Paths take a second
    return os.path.commonpath([os.path.abspath(folder) for folder in folders])  # noqa: PTH100 -- gives text, too


def read_all(images: Images, *, what: str, num_workers: int | None, bad: BadFiles) -> Iterator[NDArray[np.uint8]]:
    """All images of a set in order, about a megabyte at a time.

    Args:
        images: The set.
        what: What is being done, for the bar.
        num_workers: The number of processes that decode image files; None takes one for each processor, up to 8.
        bad: It gets the files that cannot be decoded; the images are black there.

    Raises:
        RunError: A process ended, or a file that was there before cannot be read any more.
    """
    chunks = _Chunks(images, chunks_of(images))
    for pixels, _ in _pass(chunks, what=what, num_workers=num_workers, bad=bad):
        yield pixels


def check_all(images: FileImages, *, num_workers: int | None, bad: BadFiles) -> Iterator[list[int]]:
    """Decode every file, and forget its pixels.

    Args:
        images: The files.
        num_workers: The number of processes, as :func:`read_all` takes it.
        bad: It gets the files that cannot be decoded.

    Yields:
        Positions of files that are whole, some at a time.

    Raises:
        RunError: A process ended.
    """
    parts = math.ceil(len(images) / _CHECKED_AT_ONCE)
    chunks = _Chunks(images, np.array_split(np.arange(len(images)), parts))
    for _, rows in _pass(chunks, what="checking images", num_workers=num_workers, bad=bad):
        yield [row for row in rows.tolist() if not bad.has_any_of([images.paths[row]])]


def _pass(
    chunks: _Chunks, *, what: str, num_workers: int | None, bad: BadFiles
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    workers, images = 0, chunks.images
    if isinstance(images, FileImages) and len(images) >= _FEW_FILES:
        workers = min(os.cpu_count() or 1, _MAX_WORKERS) if num_workers is None else num_workers
    # Its own generator: else the loader would draw from torch's, and whether there is a cache would change that.
    loader = BatchLoader(chunks, batch_size=None, num_workers=workers, generator=torch.Generator())
    with loader_errors(), progress(what, len(images)) as advance:
        for rows, (pixels, found) in zip(chunks.rows, loader, strict=True):
            bad.add((path, why) for path, why in found)
            yield pixels.numpy(), rows
            advance(len(rows))


class _Chunks(Dataset[Any]):
    """A set's images, some at a time, with the files among them that cannot be decoded."""

    def __init__(self, images: Images, rows: Sequence[NDArray[np.int64]]) -> None:
        self.images = images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chunk: int) -> tuple[NDArray[np.uint8], list[tuple[str, str]]]:
        rows = self.rows[chunk]
        if not isinstance(self.images, FileImages):
            return self.images.read(rows), []
        # As values: an exception would come out of a worker with its traceback in the message.
        pixels, errors = self.images.read_or_explain(rows)
        found = [(error.path, error.reason) for error in errors]
        return pixels, found


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line now and then, so that short work has none.

    Args:
        text: What is being done.
        total: The number of things to do.

    Yields:
        A function to call with the number of things that were done since.
    """
    reporter = Reporter()
    if reporter.is_interactive:
        columns = (TextColumn(text), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn())
        with Progress(*columns, console=reporter.terminal, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            reporter.show(f"{text}: {done:,} of {total:,}")

    yield advance
