"""A run's own directory: one process at a time, and files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from layermatch.errors import UserError
from layermatch.runs.layout import LOCK, UNFINISHED

__all__ = ["lock_run_dir", "make_run_dir", "replace_text"]


@contextmanager
def lock_run_dir(run_dir: Path) -> Iterator[None]:
    """Keep a run directory to this process; the directory is made, and removed again if nothing was put into it.

    Args:
        run_dir: The directory of the run, of whose processes only the first one locks.

    Raises:
        UserError: Another run uses the directory.
    """
    make_run_dir(run_dir)
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:  # an OSError, too
        raise UserError(
            f"run_dir={run_dir} is in use by another run: wait until that ends, or give another run_dir"
        ) from error
    except OSError as error:
        raise UserError(
            f"run_dir={run_dir} cannot be written to: {error.strerror or error}: give another run_dir"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            (run_dir / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            run_dir.rmdir()  # only where it is empty


def make_run_dir(run_dir: Path, *, keep: bool = True) -> None:
    """Make a run directory, with what is above it.

    Args:
        run_dir: The directory, which may be there already.
        keep: False only tries, and takes away again what was made.

    Raises:
        UserError: The directory cannot be made; nothing was, then.
    """
    made = [folder for folder in (run_dir, *run_dir.parents) if not os.path.lexists(folder)]
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        keep = False
        reason = "there is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise UserError(f"run_dir={run_dir} cannot be made: {reason}: give another run_dir") from error
    finally:
        if not keep:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()  # only where it is empty


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one at any time.

    Args:
        path: The path of the file.
        text: The new content of the file. Half of a character, as in a file name that is not UTF-8, becomes an escape.

    Raises:
        OSError: The file cannot be written. The old one is still there.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
