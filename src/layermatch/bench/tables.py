"""``python -m layermatch.bench.tables``: tables of pages, made of measured JSON, so that none is filled in by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from layermatch.arguments import OneLineParser, start_command
from layermatch.bench.accuracy import ACCURACY_FORMAT, GOALS, cells, counted_runs, goals_in_words, rows_of
from layermatch.bench.collect import GPU_FORMAT
from layermatch.errors import UserError
from layermatch.files import replace_text
from layermatch.paths import argument_path

__all__ = ["accuracy_table", "gpu_table", "into_page", "main", "parts_table"]

#: Rows of the table of a GPU -> the end of the name of a figure or a ratio.
GPU_ROWS = {
    "whole step / pure compute, `joint`": "whole step / pure compute, joint",
    "whole step / pure compute, `split`": "whole step / pure compute, split",
    "pure compute, `shared` / `split`": "pure compute, shared / split",
    "pure compute, `shared` with `weak_share=0` / `split`": "pure compute, shared, weak_share=0 / split",
    "steps/s against the conventional recipe, `joint`": "steps/s against the conventional recipe, joint",
    "steps/s against the conventional recipe, `split`": "steps/s against the conventional recipe, split",
    "share of the step outside the network, `joint` (%)": "share outside the network, joint",
    "share of the step outside the network, `split` (%)": "share outside the network, split",
    "whole step, `joint` (ms)": "whole step, joint",
    "steps/s with `compile=true` against without": "steps/s of joint, compiled against joint alone",
    "steps/s with `data.storage=device` against without": "steps/s of joint, storage=device against joint alone",
    "peak memory, whole step, `joint` (MiB)": "memory: whole step, joint",
    "peak memory, pure compute, `joint` (MiB)": "memory: pure compute, joint",
}
NETWORKS = ("WRN-28-2", "WRN-37-2")

#: The accuracies that ``benchmarks/gpu.sh`` gives its short runs as targets.
GPU_TARGETS = (0.5, 0.6, 0.7, 0.8)

#: How many of a GPU's policies and states its table has: the dearest.
DEAREST = 5


def accuracy_table(content: Mapping[str, Any], *, targets: Sequence[float] | None = None) -> str:
    """Return the recipes side by side, as Markdown.

    Args:
        content: What :func:`~layermatch.bench.accuracy.read_accuracy` gives.
        targets: The accuracies; None takes those of each data set.
    """
    head = ("data", "labels", "stays at", "recipe", "s", "lowest", "highest", "processor s", "steps", "reached",
            *(f"x {other}" for other in GOALS), "test %", "seeds")  # fmt: skip
    whole = [row for row in rows_of(content, targets=targets) if _is_whole(row)]
    rows = [(*_place(row), *cells(row), _seeds(row["seeds"])) for row in whole]
    is_compared = any(times for row in whole for times in row["times_as_fast"].values())
    goals = f"\n{goals_in_words()}\n" if is_compared else ""
    return _markdown(head, rows) + goals + _measured_on(content)


def parts_table(content: Mapping[str, Any]) -> str:
    """Return what becomes of the fast recipe's time without each of its parts, or with one more, as Markdown.

    Args:
        content: What :func:`~layermatch.bench.accuracy.read_accuracy` gives.
    """
    rows = rows_of(content)
    whole = {(*_place(row), row["variant"]): row["seconds"] for row in rows if _is_whole(row)}
    made = []
    for row in rows:
        recipe, _, change = row["variant"].partition(", ")
        if not change:
            continue
        seconds, base = row["seconds"], whole.get((*_place(row), recipe))
        times = f"{seconds / base:.2f}" if seconds and base else "-"
        made.append((*_place(row), recipe, change, *cells(row)[1:4], times, cells(row)[6], cells(row)[-1]))
    head = ("data", "labels", "stays at", "recipe", "change", "s", "lowest", "highest", "x the recipe's s", "reached",
            "test %")  # fmt: skip
    return _markdown(head, made)


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["setting"], str(row["labels"]), f"{100 * row['target']:g} %"


def _is_whole(row: Mapping[str, Any]) -> bool:
    return "," not in row["variant"]


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds in words; those that follow each other by the first and the last one."""
    is_row = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if is_row else ", ".join(map(str, seeds))


def _measured_on(content: Mapping[str, Any]) -> str:
    """Return on what the runs that count were measured, how busy it was, by which code and which commands."""
    runs = [run for each in counted_runs(content).values() for run in each]
    if not runs:
        return ""
    machines = dict.fromkeys(_machine(run["machine"]) for run in runs)
    loads = [run["load at start"] for run in runs if run["load at start"] is not None]
    load = f"; load at the start of a run {min(loads)} to {max(loads)}" if loads else ""
    quick = "; **shortened runs, which measure nothing**" if any(run["quick"] for run in runs) else ""
    code = "; ".join(dict.fromkeys(run.get("code", "a version that is not noted") for run in runs))
    commands = "".join(
        f"    {command}\n" for command in dict.fromkeys(run["command"] for run in runs if "command" in run)
    )
    return f"\nMeasured on {'; '.join(machines)}{load}{quick}, with {code}.\n" + (commands and f"\n{commands}")


def _machine(about: Mapping[str, Any]) -> str:
    versions = about["versions"]
    threads = f"{about['threads']} thread{'s' * (about['threads'] != 1)}"
    device = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {threads}"
    return f"{device}, torch {versions['torch']}"


def gpu_table(content: Mapping[str, Any]) -> str:
    """Return the figures of a GPU for both networks, its other ratios and the time to accuracies, as Markdown.

    Args:
        content: What ``benchmarks/gpu.sh`` leaves in ``gpu.json``.
    """
    step = content["sections"].get("step", {"figures": [], "ratios": []})
    values = {each["name"]: each["value"] for each in (*step["figures"], *step["ratios"])}
    targets = {each["name"]: each.get("target", "") for each in (*step["figures"], *step["ratios"])}
    rows = []
    for title, name in GPU_ROWS.items():
        names = [f"{network} {name}" for network in NETWORKS]
        found = ["" if values.get(each) is None else f"{values[each]:,.2f}" for each in names]
        rows.append((title, *found, next(filter(None, map(targets.get, names)), "-")))
    augment = {each["name"]: each["value"] for each in content["sections"].get("augment", {}).get("figures", ())}
    views = [augment.get(f"ours, {size}x{size}") for size in (32, 96)]
    rows.append(("views of 448 images, normalised (ms)", *("" if ms is None else f"{ms:,.2f}" for ms in views), "-"))
    rows += [(f"part of `gpu.sh`: {part['name']}", part["outcome"], "", "") for part in content["parts"]]
    device = content["machine"]["gpu"] or "no GPU"
    figures = _markdown(("figure", "WRN-28-2, 32x32", "WRN-37-2, 96x96", "target"), rows)
    parts = [figures, f"Measured on {device}.\n", *_more_of_gpu(content)]
    return "\n".join(parts)


def _more_of_gpu(content: Mapping[str, Any]) -> Iterator[str]:
    """Give the tables of the other parts that were measured."""
    sections = content["sections"]
    ratios = [*_dearest(sections), *sections.get("data", {}).get("ratios", ())]
    rows = [(each["name"], f"{each['value']:.3g}", each["target"] or "-") for each in ratios]
    if rows:
        yield _markdown(("ratio", "value", "target"), rows)
    if "policies" in sections:
        count = len(sections["policies"]["ratios"])
        yield f"Of {count} policies and states of methods, the dearest {min(count, DEAREST)}.\n"
    if content["accuracy"] and content["accuracy"]["runs"]:
        yield accuracy_table(content["accuracy"], targets=GPU_TARGETS)


def _dearest(sections: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    ratios = sections.get("policies", {}).get("ratios", ())
    return sorted(ratios, key=lambda ratio: -ratio["value"])[:DEAREST]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Not measured yet.\n"
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


#: Format of a file -> the tables that are made of it, by their names in pages.
TABLES: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    ACCURACY_FORMAT: {"time to accuracy": accuracy_table, "parts": parts_table},
    GPU_FORMAT: {"GPU": gpu_table},
}


def into_page(page: str, tables: Mapping[str, str]) -> str:
    r"""Return a page with tables in their places.

    Args:
        page: The text of the page. A place is between two comments, ``The table of NAME begins.`` and ``... ends.``
        tables: The tables by name; one that has no place in the page is left out.

    Raises:
        UserError: No table has a place.

    Example:
        >>> page = "<!-- The table of x begins. -->\nold\n<!-- The table of x ends. -->\n"
        >>> into_page(page, {"x": "new\n"}).split("\n")[1]
        'new'
    """
    placed, found = page, 0
    for name, text in tables.items():
        begin, end = (f"<!-- The table of {name} {verb}. -->" for verb in ("begins", "ends"))
        before, has_begin, rest = placed.partition(f"{begin}\n")
        _, has_end, after = rest.partition(end)
        if has_begin and has_end:
            placed = f"{before}{begin}\n{text}{end}{after}"
            found += 1
    if not found:
        raise UserError(f"the page has no place for {', '.join(tables)}: give <!-- The table of NAME begins. -->")
    return placed


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") not in TABLES:
        raise UserError(f"{path} is no result of bench accuracy or of benchmarks/gpu.sh")
    return content


def _make(arguments: Sequence[str] | None, console: Console) -> None:
    parser = OneLineParser(prog="python -m layermatch.bench.tables", description=__doc__, allow_abbrev=False)
    parser.add_argument("json", type=argument_path, help="a result of bench accuracy, or gpu.json of gpu.sh")
    parser.add_argument("--page", type=argument_path, help="a page that gets the tables; default: they are printed")
    given = parser.parse_args(arguments)
    content = _read(given.json)
    tables = {name: make(content) for name, make in TABLES[content["format"]].items()}
    if given.page is None:
        for text in tables.values():
            console.print(Text(text), soft_wrap=True)
        return
    try:
        page = given.page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--page {given.page} cannot be read: {error}") from error
    replace_text(given.page, into_page(page, tables))
    console.print(Text(f"written into {given.page}"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    start_command(_make, arguments)


if __name__ == "__main__":
    main()
