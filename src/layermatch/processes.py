"""Whether a process that was noted once still lives: the system gives its number to another one later."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

__all__ = ["birth_of", "boot_id", "living"]

#: Place of the time of birth behind the name in ``/proc/PID/stat``, in ticks since the machine started.
_BORN = 19


def birth_of(pid: int) -> str:
    """Return when a process began, by what no step of the system clock changes; empty where it has ended.

    Args:
        pid: The number of the process.
    """
    try:
        return _birth(psutil.Process(pid))
    except psutil.Error:
        return ""


def living(pid: int, born: str | float) -> psutil.Process | None:
    """Return a process of this machine; None where it has ended, though another one may have its number now.

    Args:
        pid: The number of the process.
        born: When it began, as :func:`birth_of` said. Notes of earlier versions have seconds since the epoch, which are
            right as long as nobody sets the clock.

    Example:
        >>> import os
        >>> living(os.getpid(), birth_of(os.getpid())) is not None, living(os.getpid(), "") is not None
        (True, False)
    """
    try:
        process = psutil.Process(pid)
        is_born_then = _birth(process) == born if isinstance(born, str) else abs(process.create_time() - born) < 1
        return process if is_born_then and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


@cache
def boot_id() -> str:
    """Return what tells this start of the machine from others; empty where the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _birth(process: psutil.Process) -> str:
    # psutil adds the time at which the machine started, which moves when the clock is set.
    with suppress(OSError):
        said = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{said.rpartition(')')[2].split()[_BORN]} {boot_id()}".rstrip()
    return str(process.create_time())  # of another system, which notes this time itself
