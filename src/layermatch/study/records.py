"""What became of the runs of a study: what their directories hold, and what the study noted of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from layermatch.files import replace_text
from layermatch.runs.identity import ALL_DEVICES, differing, draw_of, setting_of
from layermatch.runs.layout import CONFIG, RESULTS
from layermatch.runs.reading import UNREADABLE, finite_number, read_results
from layermatch.runs.settings import stored_settings
from layermatch.runs.state import judge
from layermatch.study.design import Cell, fingerprint_of
from layermatch.text import printable

__all__ = ["Record", "State", "Status", "look", "read_record", "write_record"]

#: Differences that are named.
NAMED = 3


class State(Enum):
    """The place of a run."""

    FINISHED = "finished"
    RUNNING = "running elsewhere"
    OTHER = "another run"
    MISSING = "missing"


@dataclass(frozen=True)
class Status:
    """What a run directory holds of the run that it should hold.

    Args:
        state: The place of the run.
        why: What the other run is that is there; empty unless ``state`` is :attr:`State.OTHER`.
        results: The content of ``results.json`` of a finished run; empty for others.
    """

    state: State
    why: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What a study noted of a run.

    Args:
        code: The code of each attempt, as plain containers, each once.
        data: Digests of the data at the attempts, each once.
        failure: The reason why the last attempt failed, in one line; empty where it did not.
        in_one_go: Whether the run has never gone on from a checkpoint, so that its seconds are those of all its steps.
        checked: The fingerprint of what was compared when the run was found finished, with the times of its files.
        machine: The machine of each attempt, each once.
        processor: The processor seconds of all attempts, in the program and in the system, those of the processes that
            the run started included; None where those of an attempt are not known: it goes on still, or a study that
            was killed did not see its end.
    """

    code: tuple[Mapping[str, Any], ...] = ()
    data: tuple[str, ...] = ()
    failure: str = ""
    in_one_go: bool = True
    checked: str = ""
    machine: tuple[str, ...] = ()
    processor: float | None = None

    def begun(self, *, code: Mapping[str, Any], data: str, machine: str, goes_on: bool) -> Record:
        """Return the record of a run that is started.

        Args:
            code: The code that it is started with.
            data: The digest of its data; empty where it is not known.
            machine: What it is started on; empty where it is not known.
            goes_on: Whether the run goes on from a checkpoint.
        """
        codes = self.code if goes_on else ()
        datas = self.data if goes_on else ()
        machines = self.machine if goes_on else ()
        return Record(
            code=codes if code in codes else (*codes, code),
            data=datas if data in datas or not data else (*datas, data),
            in_one_go=not goes_on,
            machine=machines if machine in machines or not machine else (*machines, machine),
        )


def _path(cell: Cell) -> Path:
    return cell.study_dir / "records" / f"{cell.slug}.json"


def read_record(cell: Cell) -> Record:
    """Return what the study noted of a run; an empty record where it noted nothing, or that cannot be read.

    Args:
        cell: The run.
    """
    try:
        fields = json.loads(_path(cell).read_text(encoding="utf-8"))
        return Record(
            code=tuple(dict(code) for code in fields["code"]),
            data=tuple(str(data) for data in fields["data"]),
            failure=printable(fields["failure"]),
            in_one_go=fields["in_one_go"] is True,
            checked=str(fields["checked"]),
            machine=tuple(printable(machine) for machine in fields.get("machine", ())),
            processor=finite_number(fields.get("processor")),
        )
    except (*UNREADABLE, KeyError, TypeError):
        return Record()


def write_record(cell: Cell, record: Record) -> None:
    """Note something of a run.

    Args:
        cell: The run.
        record: All that is noted.

    Raises:
        OSError: It cannot be written.
    """
    path = _path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(record), indent=2) + "\n")


def look(cell: Cell) -> Status:
    """Return where a run is.

    Args:
        cell: The run.
    """
    results = _results_of(cell)
    if results is not None and _was_checked(cell):
        return Status(State.FINISHED, results=results)
    stored = stored_settings(cell.run_dir)
    if stored is not None:
        why = _difference(stored, cell.raw, has_folds=cell.fold is not None)
        if why:
            return Status(State.OTHER, why)
    if results is not None and stored is not None:
        with suppress(OSError):  # it is only looked at again, then
            write_record(cell, replace(read_record(cell), checked=_check(cell), failure=""))
        return Status(State.FINISHED, results=results)
    return Status(State.RUNNING if judge(cell.run_dir).kind == "running" else State.MISSING)


def _results_of(cell: Cell) -> dict[str, Any] | None:
    """Return the results of a run that made all its steps; None otherwise."""
    try:
        results = read_results(cell.run_dir / RESULTS)
    except UNREADABLE:
        return None
    is_whole = results.get("status") == "finished"
    return results if is_whole and finite_number(results.get("steps")) == cell.max_steps else None


def _was_checked(cell: Cell) -> bool:
    """Return whether the same files were compared with the same settings before: to read a config.yaml takes long."""
    checked = read_record(cell).checked
    return bool(checked) and checked == _check(cell)


def _check(cell: Cell) -> str:
    try:
        times = [(cell.run_dir / name).stat().st_mtime_ns for name in (CONFIG, RESULTS)]
    except OSError:
        return ""
    return fingerprint_of([cell.fingerprint, cell.seed, *times])


def _difference(stored: Mapping[Any, Any], raw: Mapping[str, Any], *, has_folds: bool) -> str:
    """Return what a run has otherwise than it should; empty where nothing is."""
    try:
        if has_folds:
            stored, raw = _with_split_by_name(stored), _with_split_by_name(raw)
        was, now = setting_of(stored), setting_of(raw)
        draws = [draw_of(stored), draw_of(raw)]
    except (TypeError, ValueError, AttributeError, KeyError):
        return "settings that cannot be read"
    names = differing([was, now])
    shown = [f"{name}={was.get(name)}, not {now.get(name)}" for name in names[:NAMED]]
    if len(names) > NAMED:
        shown.append(f"and {len(names) - NAMED} more")
    if draws[0] != draws[1]:
        shown.append(f"seed {draws[0]}, not {draws[1]}")
    return printable(", ".join(shown).replace(ALL_DEVICES, "data.batch_size"))


def _with_split_by_name(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return settings with the name of a fold's file for its path: a study may be called from elsewhere, or moved."""
    data = settings["data"]
    return {**settings, "data": {**data, "split": Path(str(data["split"])).name}}
