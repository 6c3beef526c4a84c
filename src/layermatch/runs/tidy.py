"""What of old runs nobody needs, and taking it away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from layermatch.errors import UserError
from layermatch.runs.directory import lock_run_dir
from layermatch.runs.entries import Entry
from layermatch.runs.layout import (
    BEST_CHECKPOINT,
    CHECKPOINTS,
    checkpoint_name,
    checkpoints_in,
    step_of,
    unfinished_outputs_in,
)
from layermatch.runs.reading import reported_checkpoint

__all__ = ["Leftover", "find_leftovers", "remove", "size_of"]


@dataclass(frozen=True)
class Leftover:
    """A file that can go.

    Args:
        run_dir: The directory of its run.
        path: The path of the file.
        size: The size in bytes.
        why: Why nobody needs it.
    """

    run_dir: Path
    path: Path
    size: int
    why: str


def size_of(run_dir: Path) -> int:
    """Return the bytes of all files in a run directory; what is linked to is not in it.

    Args:
        run_dir: The directory of the run.
    """
    return sum(_size(path) for path in run_dir.rglob("*"))


def _size(path: Path) -> int:
    with suppress(OSError):
        if path.is_file() and not path.is_symlink():
            return path.stat().st_size
    return 0


def find_leftovers(entries: Iterable[Entry], *, keep_checkpoints: bool = True) -> list[Leftover]:
    """Return what can go: only files that a run itself wrote, by their names, and of no run that is still at it.

    A finished run keeps the checkpoint of its last step, that of its best evaluation and that of its results. A run
    that was stopped keeps all, for it may go on. Files that were being written when a process was killed go.

    Args:
        entries: The runs.
        keep_checkpoints: False takes away every checkpoint of a finished run: its results and figures stay.
    """
    found = []
    for entry in entries:
        if entry.state.kind == "running":
            continue
        found += _unfinished(entry)
        if entry.is_finished:
            found += _checkpoints(entry, keep=keep_checkpoints)
    return found


def _unfinished(entry: Entry) -> list[Leftover]:
    """Return files that bear their name only when they are whole, beside those of the run."""
    there = [path for path in unfinished_outputs_in(entry.path) if path.is_file() and not path.is_symlink()]
    return [Leftover(entry.path, path, _size(path), "was being written when its process ended") for path in there]


def _checkpoints(entry: Entry, *, keep: bool) -> list[Leftover]:
    ours = [
        path for path in checkpoints_in(entry.path) if step_of(path.name) is not None or path.name == BEST_CHECKPOINT
    ]
    ours = [path for path in ours if path.is_file() and not path.is_symlink()]
    newest = max(ours, key=lambda path: path.stat().st_mtime_ns, default=None)
    last = entry.path / CHECKPOINTS / checkpoint_name(entry.steps)  # not the highest step: a run may be set back
    best = entry.path / CHECKPOINTS / BEST_CHECKPOINT
    kept = {best, last if last in ours else newest, reported_checkpoint(entry.path)} if keep else set()
    why = "an earlier checkpoint of a finished run" if keep else "a checkpoint of a finished run"
    return [Leftover(entry.path, path, _size(path), why) for path in ours if path not in kept]


def remove(leftovers: Sequence[Leftover]) -> list[Leftover]:
    """Take away what was found, each run locked meanwhile; a run that someone uses now stays as it is.

    Args:
        leftovers: What :func:`find_leftovers` found.

    Returns:
        What is gone.
    """
    gone = []
    for run_dir in dict.fromkeys(leftover.run_dir for leftover in leftovers):
        own = [leftover for leftover in leftovers if leftover.run_dir == run_dir]
        with suppress(UserError), lock_run_dir(run_dir):
            gone += [leftover for leftover in own if _remove(leftover)]
    return [leftover for leftover in gone if not leftover.path.exists()]


def _remove(leftover: Leftover) -> bool:
    try:
        leftover.path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
