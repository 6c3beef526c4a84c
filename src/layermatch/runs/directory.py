"""A run's own directory: one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from layermatch.errors import UserError
from layermatch.runs.layout import LOCK

__all__ = ["lock_run_dir", "make_run_dir"]


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
