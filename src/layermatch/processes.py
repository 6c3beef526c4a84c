"""Whether a process that was noted once still lives: the system gives its number to another one later."""

from __future__ import annotations

import psutil

__all__ = ["birth_of", "living"]


def birth_of(pid: int) -> float:
    """Return when a process began, in seconds since the epoch; 0 where it has ended.

    Args:
        pid: The number of the process.
    """
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def living(pid: int, born: float) -> psutil.Process | None:
    """Return a process of this machine; None where it has ended, though another one may have its number now.

    Args:
        pid: The number of the process.
        born: When it began, as :func:`birth_of` said.

    Example:
        >>> import os
        >>> living(os.getpid(), birth_of(os.getpid())) is not None, living(os.getpid(), 0.0) is not None
        (True, False)
    """
    try:
        process = psutil.Process(pid)
        is_it = abs(process.create_time() - born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if is_it else None
