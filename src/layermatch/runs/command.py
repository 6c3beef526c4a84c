"""The command line of ``python -m layermatch.runs``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rich import box, filesize
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layermatch.arguments import OneLineParser
from layermatch.errors import RunError, UserError
from layermatch.paths import argument_path
from layermatch.runs.entries import Entry, names_of
from layermatch.runs.identity import Kind, differing, kind_of
from layermatch.runs.quantities import duration, percent
from layermatch.runs.search import read_entries
from layermatch.runs.tidy import find_leftovers, remove, size_of
from layermatch.runs.where import full_name
from layermatch.text import printable

__all__ = ["list_runs"]

#: Where runs lie unless ``run_dir`` says otherwise.
DEFAULT_FOLDER = Path("runs")

#: The settings that are columns already.
SHOWN = {"algorithm.name", "data.num_labels", "seed"}

#: Further settings, in which the listed runs differ, that get a column. What differs otherwise, ``--compare`` shows.
MAX_DIFFERING = 3

#: Columns of the terminal that the path of a run has at least, and those between two columns.
PATH_WIDTH, GAP = 16, 3

#: Characters of a setting's value in a column.
MAX_VALUE = 18

#: Settings that say nothing of what is trained, and make no column.
QUIET_KINDS = {Kind.OWN, Kind.APART}


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m layermatch.runs",
        description="List, choose, compare and tidy run directories.",
        epilog="conditions: --where algorithm=fixmatch,uda --where 'num_labels<=40' --where state=stopped --where "
        "'path=*try*'; names are those of settings, or their last parts, and path, state, steps, val, test, seconds",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders", nargs="*", type=argument_path, metavar="FOLDER", help="folder with runs in it (runs)"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="only runs for which it holds"
    )
    parser.add_argument("--sort", metavar="NAME", help="by this value or by written, the largest or newest last")
    parser.add_argument("--last", type=int, metavar="N", help="only the last N of the list")
    parser.add_argument("--compare", action="store_true", help="show every setting in which the runs differ")
    parser.add_argument("--json", action="store_true", help="print the list as JSON, for scripts")
    parser.add_argument("--tidy", action="store_true", help="show what finished and dead runs do not need")
    parser.add_argument(
        "--checkpoints", choices=("last", "none"), default="last", help="with --tidy: what finished runs keep"
    )
    parser.add_argument("--delete", action="store_true", help="with --tidy: take it away")
    return parser


def list_runs(arguments: Sequence[str] | None, console: Console) -> None:
    """Do what the command line says.

    Args:
        arguments: The arguments of the command line; None takes the process's.
        console: The console that prints.

    Raises:
        UserError: An argument is not legal.
    """
    given = _parser().parse_args(arguments)
    if (given.delete or given.checkpoints != "last") and not given.tidy:
        raise UserError("--delete and --checkpoints belong to --tidy: give --tidy too")
    if given.last is not None and given.last < 1:
        raise UserError(f"--last {given.last} is not legal: give a whole number from 1 on")
    folders = given.folders or [DEFAULT_FOLDER]
    entries = read_entries(folders, given.where)
    entries = _sorted(entries, given.sort)[-(given.last or 0) :]
    if given.tidy:
        _tidy(entries, console, keep_checkpoints=given.checkpoints == "last", is_meant=given.delete)
    elif given.json:
        console.print(
            json.dumps([_as_json(entry) for entry in entries], indent=2), markup=False, highlight=False, soft_wrap=True
        )
    elif not entries:
        _say(
            console,
            f"no run{' for which all conditions hold' if given.where else ''} in {', '.join(map(printable, folders))}",
        )
    elif given.compare:
        console.print(_comparison(entries), highlight=False)
    else:
        console.print(_listing(entries, width=console.width), highlight=False)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _sorted(entries: list[Entry], name: str | None) -> list[Entry]:
    """Sort runs by a value; those without it come first."""
    if name is None or not entries:
        return entries
    if name == "written":
        return sorted(entries, key=lambda entry: -entry.state.quiet)
    full = full_name(name, names_of(entries))

    def key(entry: Entry) -> tuple[bool, float, str]:
        figure = entry.figure(full)
        return entry.value(full) is not None, figure or 0.0, entry.value(full) or ""

    return sorted(entries, key=key)


# ---------------------------------------------------------------------------------------------------------------- list


def _listing(entries: Sequence[Entry], *, width: int) -> Table:
    """Return a line for each run, with as many settings in which they differ as the width has room for."""
    settings = _differing(entries)[:MAX_DIFFERING]
    while True:
        columns = _columns(entries, settings)
        needed = sum(max(map(cell_len, column)) + GAP for column in columns[1:]) + PATH_WIDTH
        if needed <= width or not settings:
            break
        settings.pop()
    table = _table(*(column[0] for column in columns))
    for column, described in zip(columns[1:], table.columns[1:], strict=True):
        described.min_width = max(map(cell_len, column))
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))
    count = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    size = filesize.decimal(sum(size_of(entry.path) for entry in entries))
    table.caption = Text(f"{count} in {printable(_shared_folder([entry.path for entry in entries]))}, {size}")
    return table


def _columns(entries: Sequence[Entry], settings: Sequence[str]) -> list[list[str]]:
    """Return each column with its heading."""
    columns = [["run", *_short_paths([entry.path for entry in entries])]]
    columns.append(["algorithm", *(_short_value(entry.value("algorithm.name")) for entry in entries)])
    columns.append(["labels", *(_short_value(entry.num_labels or None) for entry in entries)])
    named = ("seed", *settings)
    columns += [[_short_name(name), *(_short_value(entry.value(name)) for entry in entries)] for name in named]
    columns.append(["state", *(entry.state.kind for entry in entries)])
    columns.append(["step", *(_steps(entry) for entry in entries)])
    columns += [[name, *(_cell(entry, name) for entry in entries)] for name in ("val", "test")]
    return [*columns, ["written", *(_age(entry) for entry in entries)]]


def _short_name(setting: str) -> str:
    """Return the last part of a name; of a class that was chosen, its section."""
    *_, section, last = ["", *setting.split(".")]
    return section if last == "_target_" else last


def _short_value(value: str | None) -> str:
    """Return a value that fits into a column; of a class or function, its own name."""
    text = "-" if value is None else value
    text = text.rpartition(".")[2] if text.startswith("layermatch.") else text
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."


def _steps(entry: Entry) -> str:
    return str(entry.steps) if entry.max_steps in {None, entry.steps} else f"{entry.steps} of {entry.max_steps}"


def _age(entry: Entry) -> str:
    """Return how long ago it wrote, in one unit."""
    largest = " ".join(duration(entry.state.quiet).split()[:2])
    return "-" if entry.state.kind == "empty" else f"{largest} ago"


def _short_paths(paths: Sequence[Path]) -> list[str]:
    """Return the paths without the folders that all of them lie in, which the caption names."""
    shared = _shared_folder(paths)
    return [printable(path.absolute().relative_to(shared)) for path in paths]


def _shared_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _table(*header: str, left: int = 1) -> Table:
    table = Table(caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(Text(printable(name)), justify="left" if place < left else "right", overflow="fold")
    return table


def _differing(entries: Sequence[Entry]) -> list[str]:
    """Return the settings of what is trained in which runs differ, and that are no column already."""
    known = [entry.settings for entry in entries if entry.settings]
    if not known:
        return []
    return [name for name in differing(known) if name not in SHOWN and kind_of(name) not in QUIET_KINDS]


def _comparison(entries: Sequence[Entry]) -> Table:
    known = [entry.settings for entry in entries if entry.settings] or [{}]
    rows = [name for name in differing(known) if name != "run_dir"]
    table = _table("", *_short_paths([entry.path for entry in entries]))
    for name in (*rows, "state", "steps", "val", "test"):
        table.add_row(*map(Text, (name, *(_cell(entry, name) for entry in entries))))
    return table


def _cell(entry: Entry, name: str) -> str:
    if name in {"val", "test"}:
        share = entry.figure(name)
        return "-" if share is None else percent(share)
    return entry.value(name) or "-"


def _as_json(entry: Entry) -> dict[str, object]:
    """Return one run, for scripts: numbers are numbers, what is not known is null."""
    figures = {"steps": entry.steps, "val": entry.val, "test": entry.test, "seconds": entry.seconds}
    return {"path": str(entry.path), "state": entry.state.kind, **figures, "settings": dict(entry.settings)}


# ---------------------------------------------------------------------------------------------------------------- tidy


def _tidy(entries: Sequence[Entry], console: Console, *, keep_checkpoints: bool, is_meant: bool) -> None:
    found = find_leftovers(entries, keep_checkpoints=keep_checkpoints)
    if not found:
        _say(console, f"nothing to take away from {len(entries)} runs")
        return
    gone = remove(found) if is_meant else found
    table = _table("file", "size", "why", left=1)
    for leftover in gone:
        table.add_row(*map(Text, (printable(leftover.path), filesize.decimal(leftover.size), leftover.why)))
    console.print(table, highlight=False)
    total = filesize.decimal(sum(leftover.size for leftover in gone))
    _say(console, f"{total} taken away" if is_meant else f"{total} would go: add --delete to take it away")
    kept = [leftover.path for leftover in found if leftover not in gone]
    if kept:
        stays = ", ".join(map(printable, kept[:3])) + ", ..." * (len(kept) > 3)
        raise RunError(
            f"{len(kept)} of {len(found)} files stay, as the run is in use or they cannot be removed: {stays}"
        )
