"""How many files this process may have open: each process that reads images needs some for itself and its batches."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layermatch.errors import UserError

#: Windows has no such module, and no such limit.
resource: Any = import_module("resource") if find_spec("resource") else None

__all__ = ["check_open_files", "readers_that_fit"]

#: The files of one reading process: its queues and events, and two batches of eight tensors handed over as open files.
FILES_OF_READER = 6 + 2 * 8
#: The files that are left for all that is opened and closed in between.
SPARE_FILES = 16


def readers_that_fit() -> int:
    """Count the reading processes for which enough files may be opened; the soft limit counts for nothing here."""
    limit = _hard_limit()
    return 2**31 if limit is None else max((limit - _open_files() - SPARE_FILES) // FILES_OF_READER, 0)


def check_open_files(num_workers: int, *, loaders: int) -> None:
    """See that enough files may be opened, before any process is started; raises the soft limit where that is enough.

    Args:
        num_workers: The number of reading processes of each loader.
        loaders: How many there are, for example of training and of test images.

    Raises:
        UserError: The system allows too few.
    """
    if resource is None or num_workers == 0:
        return
    fit = readers_that_fit()
    needed = _open_files() + SPARE_FILES + num_workers * loaders * FILES_OF_READER
    if num_workers * loaders > fit:
        raise UserError(
            f"num_workers={num_workers} needs about {needed} open files, and the system allows {_hard_limit()}: "
            f"give num_workers={fit // loaders}, or a higher limit (ulimit -n {2 ** needed.bit_length()})"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        with suppress(ValueError, OSError):  # what the system really allows shows when the files are opened
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _hard_limit() -> int | None:
    """Return the hard limit on open files; None where there is none."""
    if resource is None:
        return None
    hard: int = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _open_files() -> int:
    folder = next((path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir()), None)
    if folder is None:
        return SPARE_FILES
    try:
        return sum(1 for _ in Path(folder).iterdir())
    except OSError:  # to look is to open one more: as many are open as may be, or more, where the limit was lowered
        soft: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return soft
