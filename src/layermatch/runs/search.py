"""Looking for runs in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layermatch.errors import UserError
from layermatch.paths import is_folder
from layermatch.runs.entries import Entry, read_entry
from layermatch.runs.layout import find_runs
from layermatch.runs.where import choose, read_condition
from layermatch.text import printable

__all__ = ["newest_run", "read_entries"]

#: The file by which the folder of a sweep is known; Hydra writes it.
SWEEP = "multirun.yaml"


def read_entries(folders: Sequence[Path], conditions: Sequence[str] = ()) -> list[Entry]:
    """Return the runs in folders, each once, that meet all conditions.

    Args:
        folders: The folders; each may be a run directory itself.
        conditions: Conditions as they were typed.

    Raises:
        UserError: There is no such folder, or a condition is none.
    """
    wanted = [read_condition(text) for text in conditions]
    found: dict[Path, Path] = {}
    for folder in folders:
        if not is_folder(folder):
            raise UserError(f"{printable(folder)} is no folder: give a folder with runs in it")
        found |= {path.resolve(): path for path in find_runs(folder)}
    entries = [read_entry(path) for path in found.values()]
    # An empty folder is a run only where a sweep made it.
    return choose([entry for entry in entries if entry.state.kind != "empty" or _is_job(entry.path)], wanted)


def _is_job(path: Path) -> bool:
    return path.name.isdecimal() and (path.parent / SWEEP).is_file()


def newest_run(folder: Path, conditions: Sequence[str] = ()) -> Path | None:
    """Return the run that wrote last, among those that are still running where there are any.

    Args:
        folder: The folder with the runs.
        conditions: Conditions as they were typed, all of which it must meet.

    Returns:
        None where there is no such run.

    Raises:
        UserError: There is no such folder, or a condition is none.
    """
    there = [entry for entry in read_entries([folder], conditions) if entry.state.kind != "empty"]
    ordered = sorted(there, key=lambda entry: (entry.state.kind != "running", entry.state.quiet))
    return ordered[0].path if ordered else None
