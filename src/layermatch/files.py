"""Files that are whole or not there: each is written under another name, brought to the disk, and then renamed.

A process that is killed leaves a file of the other name behind, ``.<name>.<8 digits>.tmp`` in the same folder. No two
writers have the same one, and :func:`unfinished_in` finds them all.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["UNFINISHED", "put_in_place", "replace_text", "replacing", "sync_folder", "unfinished_in", "unfinished_of"]

#: Ending of a file that is being written, and bears its name only when it is whole.
UNFINISHED = ".tmp"

_UNFINISHED_NAME = re.compile(rf"\.(.+)\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}", re.DOTALL)

#: What the system says of a folder that cannot be synced: its file system has no such thing, or it may not be opened.
_NEVER_SYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}


def unfinished_of(path: Path) -> Path:
    """Return a new name beside a file, which it bears until it is whole.

    Args:
        path: The path of the file.

    Example:
        >>> name = unfinished_of(Path("runs/results.json")).name
        >>> name.startswith(".results.json."), name.endswith(UNFINISHED)
        (True, True)
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")


def unfinished_in(folder: Path) -> list[tuple[Path, str]]:
    """Find what is being written in a folder, or was when its process ended, each with the name that it was to have.

    Args:
        folder: The folder; it may be missing.
    """
    try:
        there = sorted(os.listdir(folder))  # noqa: PTH208 -- 100,000 Paths take a second
    except OSError:  # it is not there, or cannot be looked into
        return []
    found = (_UNFINISHED_NAME.fullmatch(name) for name in there)
    return [(folder / match[0], match[1]) for match in found if match]


@contextmanager
def replacing(path: Path, *, sync: bool = True, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Give a path to write a file to, which takes its own name when it is whole; the old file is there until then.

    Whatever is raised meanwhile, the old file stays and nothing else is left.

    Args:
        path: The path of the file; its folder must be there. One that is replaced passes its permissions on.
        sync: Whether the file is brought to the disk first, so that it is whole after the machine has stopped, too.
        check: A function of the file under its other name, called at the last moment; it may raise.

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as unfinished:
        ...         written = unfinished.write_text("whole")
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.txt']
    """
    unfinished = unfinished_of(path)
    try:
        yield unfinished
        put_in_place(unfinished, path, sync=sync, check=check)
    except OSError as error:
        if str(error.filename) == str(unfinished):
            error.filename = str(path)  # what people know
        raise
    finally:
        with suppress(OSError):  # the folder may be gone, too
            unfinished.unlink(missing_ok=True)


def put_in_place(
    unfinished: Path, path: Path, *, sync: bool = True, check: Callable[[Path], object] | None = None
) -> None:
    """Give a file that is whole its name.

    Args:
        unfinished: The file under its other name, in the same folder; it is closed.
        path: Its name to be. One that is replaced passes its permissions on.
        sync: Whether the file is brought to the disk first.
        check: A function of the file under its other name, called at the last moment; it may raise.

    Raises:
        OSError: The file cannot be renamed, or not be brought to the disk.
    """
    with unfinished.open("r+b") as file:
        with suppress(OSError):  # there is none, or the file system has no permissions
            unfinished.chmod(path.stat().st_mode & 0o7777)
        if sync:
            os.fsync(file.fileno())
    if check is not None:
        check(unfinished)
    unfinished.replace(path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring what was renamed in a folder to the disk, where the system can.

    Args:
        folder: The folder.

    Raises:
        OSError: The disk fails.
    """
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NEVER_SYNCED:
            raise


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one at any time.

    Args:
        path: The path of the file.
        text: The new content of the file. Half of a character, as in a file name that is not UTF-8, becomes an escape.

    Raises:
        OSError: The file cannot be written. The old one is still there.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
