"""Whether a run is still at it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from layermatch.runs.layout import CHECKPOINTS, CONFIG, FIGURES, LOCK, LOG, METRICS, RESULTS, SPLIT

__all__ = ["STATES", "RunState", "is_locked", "judge"]

#: What a run writes to while it is at it.
SIGNS_OF_LIFE = (METRICS, LOG, CONFIG, SPLIT, CHECKPOINTS, FIGURES)

#: Seconds without a sign of life in which a run is not asked about its lock: our asking holds the lock for a moment.
QUIET = 10.0

#: Seconds without a sign of life after which a run whose lock cannot be asked counts as stopped.
STOPPED = 60.0


#: What a run may be doing.
STATES = ("running", "finished", "stopped", "empty")


@dataclass(frozen=True)
class RunState:
    """What a run is doing.

    Args:
        kind: One of :data:`STATES`; ``empty`` if there is nothing of a run.
        quiet: The seconds since the run last wrote; 0 where it wrote nothing.
    """

    kind: str
    quiet: float


def judge(run_dir: Path, *, now: float | None = None) -> RunState:
    """Judge a run by its results, its lock and the times of its files.

    Args:
        run_dir: The directory of the run.
        now: The time in seconds since the epoch; None is the clock's.

    Returns:
        Finished, if there are results and the run does not go on; running, if it holds its lock, or wrote within the
        last minute where the lock cannot be asked.
    """
    now = time.time() if now is None else now
    times = [time_of for name in SIGNS_OF_LIFE if (time_of := _time(run_dir / name)) is not None]
    results = _time(run_dir / RESULTS)
    quiet = max(0.0, now - max([*times, results or 0.0])) if times or results is not None else 0.0
    if results is not None:
        goes_on = (_time(run_dir / CONFIG) or 0.0) > results and _is_locked(run_dir, quiet) is True
        return RunState("running" if goes_on else "finished", quiet)
    if not times:
        return RunState("running" if _is_locked(run_dir, STOPPED) else "empty", quiet)
    locked = _is_locked(run_dir, quiet)
    runs = quiet < STOPPED if locked is None else locked
    return RunState("running" if runs else "stopped", quiet)


def _time(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _is_locked(run_dir: Path, quiet: float) -> bool | None:
    """Say whether another process holds the lock; None if that cannot be told. A run that ends takes the file away."""
    return True if quiet < QUIET and (run_dir / LOCK).is_file() else is_locked(run_dir)


def is_locked(run_dir: Path) -> bool | None:
    """Ask a run's lock at once whether another process holds it, which holds it for a moment.

    Args:
        run_dir: The directory of the run; no process may be about to start in it.

    Returns:
        None if that cannot be told.
    """
    path = run_dir / LOCK
    if not path.is_file():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # another user's run
        return None
