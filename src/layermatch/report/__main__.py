"""Write a report about runs: one HTML page that needs no other file, and its tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from layermatch.arguments import OneLineParser, start_command
from layermatch.errors import UserError
from layermatch.files import replace_text
from layermatch.paths import argument_path, is_folder
from layermatch.report.groups import choose_baseline, group_runs
from layermatch.report.page import GENERATOR, render_html, render_markdown
from layermatch.report.runs import read_run
from layermatch.report.tables import comparison_table, on_terminal, result_table, run_table
from layermatch.runs.entries import read_entry
from layermatch.runs.layout import find_runs
from layermatch.runs.where import choose, read_condition
from layermatch.text import printable

__all__ = ["main", "report"]

#: How far into a file its mark is looked for.
MARK_WITHIN = 2000


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m layermatch.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("run_dirs", nargs="*", type=argument_path, metavar="RUN_DIR", help="directory of a run")
    parser.add_argument(
        "--multirun",
        action="append",
        type=argument_path,
        default=[],
        metavar="DIR",
        help="take every run directory in DIR",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="take only runs that meet it, as in python -m layermatch.runs",
    )
    parser.add_argument("--baseline", metavar="NAME", help="setting to compare with (default: the first one)")
    parser.add_argument(
        "--out",
        type=argument_path,
        default=Path("report.html"),
        help="the page (%(default)s); the Markdown file lies beside it",
    )
    return parser


def _run_dirs(given: Sequence[Path], folders: Sequence[Path]) -> list[Path]:
    """Return every run directory once."""
    for path in (*given, *folders):
        if not is_folder(path):
            raise UserError(f"{printable(path)} is no folder: give the directory of a run")
    found = list(given)
    for folder in folders:
        inside = find_runs(folder)
        if not inside:
            raise UserError(f"--multirun {printable(folder)} holds no run directory")
        found += inside
    if not found:
        raise UserError("no run is given: give RUN_DIR or --multirun DIR")
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def _chosen(paths: list[Path], conditions: Sequence[str]) -> list[Path]:
    """Return the run directories that meet all conditions."""
    if not conditions:
        return paths
    wanted = [read_condition(text) for text in conditions]
    chosen = choose([read_entry(path) for path in paths], wanted)
    if not chosen:
        raise UserError(f"--where: none of {len(paths)} runs meets {' and '.join(map(printable, conditions))}")
    return [entry.path for entry in chosen]


def _check_out(page: Path) -> None:
    if page.suffix.lower() not in {".html", ".htm"}:
        raise UserError(f"--out {page} is no HTML page: give a name that ends with .html")
    if not is_folder(page.parent):
        raise UserError(f"--out {page}: there is no folder {page.parent}: give a file in a folder that exists")
    for path in (page, page.with_suffix(".md")):
        if path.exists() and not _is_ours(path):
            raise UserError(f"--out {page}: {path} exists and is no report: give another name")


def _is_ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(MARK_WITHIN)
    except OSError:  # a folder, among others
        return False


def report(arguments: Sequence[str] | None, console: Console) -> None:
    """Read, compare and write.

    Args:
        arguments: The arguments of the command line; None takes the process's.
        console: The console that prints.

    Raises:
        UserError: An argument is not legal, or the files cannot be written.
    """
    given = _parser().parse_args(arguments)
    paths = _chosen(_run_dirs(given.run_dirs, given.multirun), given.where)
    _check_out(given.out)
    runs = [read_run(path) for path in paths]
    groups = group_runs(runs)
    baseline = choose_baseline(groups, given.baseline)
    page = render_html(runs, groups, baseline, written=datetime.now().astimezone())
    _write(given.out, page)
    _write(given.out.with_suffix(".md"), render_markdown(runs, groups, baseline))
    shown = [run_table([run for run in runs if run.problems], groups)]
    if baseline is not None:
        shown = [result_table(groups, is_brief=True), comparison_table(groups, baseline), *shown]
    for table in shown:
        if table.rows:
            console.print(on_terminal(table), highlight=False)
    text = f"written to {printable(given.out)} and {printable(given.out.with_suffix('.md'))}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise UserError(f"--out: cannot write {path}: {error.strerror or error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    start_command(report, arguments)


if __name__ == "__main__":
    main()
