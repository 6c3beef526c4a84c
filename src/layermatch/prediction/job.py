"""Work that goes on where it was stopped: a folder beside the output, with the list of files and what is done.

The images are divided into chunks, each a batch of the network. A chunk is done when its file is there: it is written
under another name and renamed. So whenever the work is stopped, and on however many devices it is done, every image is
in the output once, and the output is the same to the byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from layermatch.data.sources.files import Unused, unused_text
from layermatch.data.wording import printable
from layermatch.errors import RunError, UserError
from layermatch.files import replace_text, replacing, unfinished_in
from layermatch.prediction.listing import Listing

__all__ = ["GO_ON", "FileList", "Job", "Record", "work_folder"]

#: What is said wherever the work ends before it is done.
GO_ON = "start the same command again to go on"

_FILES, _CHUNKS, _JOB, _OURS, _LOCK = "files.jsonl", "chunks", "job.json", "ours.json", ".lock"

#: The stamp where there is no file.
_NO_FILE = (0, 0)

#: Files that are named among those that are not used.
_NAMED = 1000

#: What a chunk's file may be, when a disk has lost a part of it.
_DAMAGED = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def work_folder(output: Path) -> Path:
    """Return where the work on an output is kept until it is finished.

    Args:
        output: The path of the output.

    Example:
        >>> work_folder(Path("labels.csv")).name
        'labels.csv.unfinished'
    """
    return output.with_name(output.name + ".unfinished")


@dataclass(frozen=True)
class Record:
    """An image of the list.

    Args:
        path: The path of the file, as it is in the output.
        label: The class that a manifest says; empty where nothing does.
        split: What it is for.
        stamp: The size in bytes and the time of change in nanoseconds, when the list was made; zeros where there was
            no file.
    """

    path: str
    label: str
    split: str
    stamp: tuple[int, int]


class FileList:
    """The images of a job, read from its folder a chunk at a time.

    Args:
        path: The file with a line for each image.
        chunk_size: The images of a chunk.
    """

    def __init__(self, path: Path, *, chunk_size: int) -> None:
        self._path = path
        starts, position, count = [], 0, 0
        with path.open("rb") as lines:
            for line in lines:
                if count % chunk_size == 0:
                    starts.append(position)
                position += len(line)
                count += 1
        self._starts = np.array([*starts, position], np.int64)
        self.count = count

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._starts) - 1

    def chunk(self, number: int) -> list[Record]:
        """Return the images of a chunk.

        Args:
            number: The number of the chunk, from 0.
        """
        start, end = self._starts[number : number + 2].tolist()
        with self._path.open("rb") as file:
            file.seek(start)
            lines = file.read(end - start).splitlines()
        return [
            Record(path, label, split, (size, changed)) for path, label, split, size, changed in map(json.loads, lines)
        ]


class Job:
    """The work on one output.

    Args:
        output: The path of the output.
        identity: What the output's content depends on, by name: the same for a command that goes on.
        chunk_size: The images of a chunk.
    """

    def __init__(self, output: Path, *, identity: Mapping[str, Any], chunk_size: int) -> None:
        self.output = output
        self.folder = work_folder(output)
        self.identity = json.loads(json.dumps(identity))
        self.chunk_size = chunk_size
        self.root = Path()
        self.files: FileList
        #: What is not used, by kind; and some of it.
        self.unused: tuple[dict[str, int], list[Unused]] = ({}, [])
        #: Whether it goes on, and the files are others than when it began.
        self.goes_on = False
        self.has_changed = False

    @contextmanager
    def held(self, targets: Sequence[Path]) -> Iterator[None]:
        """Keep the output to this process.

        Args:
            targets: Everything that the command is to write; none of it may be there, unless this job has written it.

        Raises:
            UserError: Something is there, the folder cannot be made, another process is at work, or what is unfinished
                is of another command.
        """
        self._check_targets(targets)
        try:
            self.folder.mkdir(exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(f"output={self.output} is being written by another process: wait until it ends") from error
        except OSError as error:
            raise UserError(
                f"output={self.output}: {self.folder} cannot be made: {error.strerror or error}: give another output"
            ) from error
        try:
            self._check_identity()
            for path in targets:
                for left, name in unfinished_in(path.absolute().parent):
                    if name == path.name:
                        left.unlink(missing_ok=True)  # of this command, which was killed: it holds the output
            yield
        finally:
            with suppress(OSError):
                (self.folder / _LOCK).unlink(missing_ok=True)
            lock.release()
            if not (self.folder / _JOB).exists():  # nothing is done that could go on
                shutil.rmtree(self.folder, ignore_errors=True)

    def _check_targets(self, targets: Sequence[Path]) -> None:
        ours = self._ours()
        for path in targets:
            if os.path.lexists(path) and str(path.absolute()) not in ours:
                raise UserError(f"{path} is there already, and nothing is overwritten: give another name, or remove it")
            if not path.absolute().parent.is_dir():
                raise UserError(f"{path}: there is no folder {path.parent}: give a file in a folder that exists")

    def _ours(self) -> set[str]:
        """Return the paths of what this job has begun to put in its place."""
        try:
            return set(json.loads((self.folder / _OURS).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return set()

    def is_own(self, path: Path) -> bool:
        """Return whether this job has begun to put a target in its place."""
        return str(path.absolute()) in self._ours()

    def take(self, path: Path) -> None:
        """Note that a target is about to be put in its place: after a kill it is this job's."""
        replace_text(self.folder / _OURS, json.dumps(sorted({*self._ours(), str(path.absolute())})))

    def _check_identity(self) -> None:
        try:
            begun = json.loads((self.folder / _JOB).read_text(encoding="utf-8"))["identity"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self.folder} is not the work of this command: remove it, or give another output"
            ) from error
        for name in sorted({*begun, *self.identity}):
            was, is_now = begun.get(name), self.identity.get(name)
            if was != is_now:
                raise UserError(
                    f"{self.folder} is unfinished work of another command ({name} was {was}, now {is_now}): give that "
                    f"command again, or another output, or remove the folder"
                )

    def list_files(self, listing: Listing) -> None:
        """Write the list of files, or take that of the work that goes on.

        Args:
            listing: The files that are there now.

        Raises:
            UserError: There is no image, a table names none that is there, or the files cannot be listed.
            OSError: The list cannot be written.
        """
        self.root = listing.root
        place, state = self.folder / _FILES, self.folder / _JOB
        self.goes_on = state.exists()
        counts: Counter[str] = Counter()
        named: list[Unused] = []
        digest, count, is_any_there = hashlib.blake2b(digest_size=16), 0, False
        with (Path(os.devnull) if self.goes_on else place).open("w", encoding="ascii") as file:
            for one in listing.entries:
                if isinstance(one, Unused):
                    counts[one.kind] += 1
                    if len(named) < _NAMED:
                        named.append(one)
                    continue
                stamp = stamp_of(listing.root / one.path)
                is_any_there = is_any_there or stamp != _NO_FILE
                file.write(json.dumps([one.path, one.label, one.split, *stamp]) + "\n")
                digest.update(json.dumps([one.path, one.label, one.split]).encode())
                count += 1
        self.unused = dict(counts), named
        if self.goes_on:
            self.has_changed = json.loads(state.read_text(encoding="utf-8"))["files"] != digest.hexdigest()
        else:
            if not count:
                beside = f", but {unused_text(named)}" if named else ""
                raise UserError(f"input={self.identity.get('input')} has no images{beside}: nothing to predict")
            if listing.is_table and not is_any_there:
                raise UserError(
                    f"input={self.identity.get('input')}: none of its {count:,} files is in {listing.root}: give "
                    f"root=DIR, the folder that its paths are relative to"
                )
            (self.folder / _CHUNKS).mkdir(exist_ok=True)
            replace_text(state, json.dumps({"identity": self.identity, "files": digest.hexdigest()}, indent=1) + "\n")
        self.files = FileList(place, chunk_size=self.chunk_size)

    def chunk_path(self, number: int) -> Path:
        """Return the file of a chunk that is done."""
        return self.folder / _CHUNKS / f"{number:08d}.npz"

    def left(self) -> list[int]:
        """Return the numbers of the chunks that are not done, or whose images have changed since the list was made."""
        if not self.goes_on:
            return list(range(len(self.files)))
        return [number for number in range(len(self.files)) if not self._is_done(number)]

    def num_done(self) -> int:
        """Return how many chunks have a file."""
        with os.scandir(self.folder / _CHUNKS) as entries:
            return sum(entry.name.endswith(".npz") for entry in entries)

    def _is_done(self, number: int) -> bool:
        try:
            self.read_chunk(number)
        except _DAMAGED:
            self.chunk_path(number).unlink(missing_ok=True)
            return False
        records = self.files.chunk(number)
        if all(stamp_of(self.root / record.path) == record.stamp for record in records):
            return True
        self.chunk_path(number).unlink()
        return False

    def read_chunk(self, number: int) -> dict[str, NDArray[Any]]:
        """Return what was computed for a chunk, by name; every byte is compared with its checksum.

        Args:
            number: The number of the chunk.
        """
        with self.chunk_path(number).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def write_chunk(self, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep what was computed for a chunk.

        Args:
            number: The number of the chunk.
            arrays: The arrays by name.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        path = self.chunk_path(number)
        # Not brought to the disk, which each batch would wait for: what is damaged is found by its checksums when the
        # work goes on, and is computed again.
        with replacing(path, sync=False) as unfinished:
            unfinished.write_bytes(content.getbuffer())

    def remove(self) -> None:
        """Remove the folder: the output is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file; zeros where there is none.

    Args:
        path: The path of the file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 -- one for each image
    except (OSError, ValueError):
        return _NO_FILE
    return status.st_size, status.st_mtime_ns


@contextmanager
def told_of_disk(what: Path) -> Iterator[None]:
    """Turn the system's errors while something is written into one line.

    Args:
        what: What is written.

    Raises:
        RunError: There was one; what is done is kept.
    """
    try:
        yield
    except OSError as error:
        name = printable(str(error.filename or what))
        raise RunError(
            f"cannot write {name}: {error.strerror or error}: what is done is kept: make room, then {GO_ON}"
        ) from error
