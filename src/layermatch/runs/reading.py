"""Reading what a run found: the small files of a run directory, whatever became of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

from layermatch.runs.layout import BEST_CHECKPOINT, CHECKPOINTS, CONFIG, RESULTS, checkpoint_name
from layermatch.text import printable

__all__ = ["UNREADABLE", "finite_number", "read_results", "reason", "reported_checkpoint"]

#: What a broken file can raise.
UNREADABLE = (OSError, ValueError, yaml.YAMLError, csv.Error, RecursionError)

#: Characters of an error that are shown.
REASON_LENGTH = 200


def reason(error: Exception) -> str:
    """Return why a file cannot be read, in one line.

    Args:
        error: One of :data:`UNREADABLE`.

    Example:
        >>> reason(RecursionError("maximum recursion depth exceeded"))
        'it is nested too deeply'
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    return printable(" ".join(str(error).split()))[:REASON_LENGTH]


def read_results(path: Path) -> dict[str, Any]:
    """Return what a run ended with.

    Args:
        path: The path of ``results.json``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no results.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict):
        raise ValueError("it holds no results")
    return results


def reported_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint whose weights a run's results are of; None where there are no results, or it is gone.

    A run that has gone on since, whose settings are younger than its results, reports none yet.

    Args:
        run_dir: The directory of the run.
    """
    try:
        results = read_results(run_dir / RESULTS)
        if (run_dir / CONFIG).stat().st_mtime_ns > (run_dir / RESULTS).stat().st_mtime_ns:
            return None
    except UNREADABLE:
        return None
    name = results.get("checkpoint")
    steps = finite_number(results.get("steps"))
    if name is None and steps is not None:  # written before the name was noted
        best = run_dir / CHECKPOINTS / BEST_CHECKPOINT
        name = BEST_CHECKPOINT if best.is_file() else checkpoint_name(int(steps))
    if not isinstance(name, str) or Path(name).name != name:
        return None
    path = run_dir / CHECKPOINTS / name
    return path if path.is_file() else None


def finite_number(value: object) -> float | None:
    """Return a number of a JSON file; None for anything else.

    Args:
        value: The value, as it was read.

    Example:
        >>> finite_number(3), finite_number(float("nan")), finite_number("3"), finite_number(True)
        (3.0, None, None, None)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < 1e300 else None  # not so for NaN
