"""A snapshot of a run as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layermatch.catalogue import ROW_LENGTH, Catalogue, Place
from layermatch.metrics import CLASS_COUNTS
from layermatch.runs.metrics_file import Curve
from layermatch.runs.quantities import duration, number, percent
from layermatch.text import printable
from layermatch.watch.watcher import Snapshot

__all__ = ["draw", "sparkline"]

#: Most lines of the log that are shown.
LOG_LINES = 12

#: Characters of a class: its name, its bar, its count.
NAME_WIDTH, BAR_WIDTH, CLASS_WIDTH = 14, 14, 38

#: Columns of the curve table before the curve.
CURVE_START = 66

STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "empty": "yellow"}


@dataclass(frozen=True)
class _Signs:
    """What is written with.

    Args:
        levels: The levels of a curve, low to high.
        full: The filled part of a bar.
        empty: The rest of a bar.
        bad: The sign of a value that is not finite.
        lines: The lines of tables.
        cut: The end of a line that is cut as it is too long.
    """

    levels: str
    full: str
    empty: str
    bad: str
    lines: box.Box
    cut: str

    def text(self, text: object, style: str = "") -> Text:
        """Return a text in these signs."""
        plain = printable(text)
        if self is ASCII:
            plain = plain.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")
            plain = plain.encode("ascii", "replace").decode()
        return Text(plain, style=style, no_wrap=True)

    def line(self, text: object, width: int, style: str = "") -> Text:
        """Return a text that fits into a line."""
        line = self.text(text, style)
        if line.cell_len > width:
            line.truncate(max(0, width - len(self.cut)))
            line.append(self.cut)
        return line


UNICODE = _Signs(levels="▁▂▃▄▅▆▇█", full="█", empty="░", bad="?", lines=box.SIMPLE_HEAD, cut="…")
ASCII = _Signs(levels="_.-:=+*#", full="#", empty=".", bad="?", lines=box.ASCII, cut="...")


def sparkline(values: Sequence[float], *, width: int, levels: str = UNICODE.levels, bad: str = UNICODE.bad) -> str:
    """Return a curve in one line: its lowest value is the lowest sign, its highest the highest.

    Args:
        values: The values, any; one that is not finite is a sign of its own.
        width: The number of signs at most; neighbours are averaged.
        levels: The signs, low to high.
        bad: The sign of a value that is not finite.

    Example:
        >>> sparkline([0, 1, 2, 3], width=10), sparkline([0, 0, 8, 8], width=2), sparkline([1, float("nan")], width=9)
        ('▁▃▆█', '▁█', '▁?')
    """
    count = len(values)
    signs = min(width, count)
    parts = [values[place * count // signs : (place + 1) * count // signs] for place in range(signs)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((mean - low) * scale)] if math.isfinite(mean) else bad for mean in means)


def draw(snapshot: Snapshot, *, width: int, height: int | None, is_ascii: bool = False) -> RenderableType:
    """Return a frame: state and progress, curves, classes, and the last lines of the log in what room is left.

    Args:
        snapshot: What is known of the run.
        width: The number of columns.
        height: The number of rows; None for as many as there are.
        is_ascii: Whether only ASCII signs are used.
    """
    signs = ASCII if is_ascii else UNICODE
    parts: list[RenderableType] = [*_head(snapshot, signs, width=width)]
    used = len(parts)
    curves = _curve_table(snapshot.curves, snapshot.catalogue, signs, width=width)
    if curves is not None:
        parts.append(curves)
        used += curves.row_count + 3
    room = None if height is None else max(3, height - used - 5)
    classes = _class_bars(snapshot.curves, signs, width=width, rows=room)
    used += len(classes)
    lines = LOG_LINES if height is None else max(1, min(LOG_LINES, height - used - 2))
    log = [signs.line(line, width) for line in snapshot.log[-lines:]]
    title = [signs.text("Last lines of run.log", "bold")] if log else []
    return Group(*parts, *classes, *title, *log)


def _head(snapshot: Snapshot, signs: _Signs, *, width: int) -> list[Text]:
    settings, kind = snapshot.settings, snapshot.state.kind
    about = [settings[name] for name in ("name", "algorithm.name") if name in settings]
    about += [f"seed {settings['seed']}"] if "seed" in settings else []
    state = signs.line(_state(snapshot), width)
    state.stylize(STYLES.get(kind, ""), 0, len(kind))
    step = f"step {snapshot.step}"
    if snapshot.max_steps:
        share = min(snapshot.step / snapshot.max_steps, 1.0)
        size = max(10, min(40, width - 50))
        bar = (signs.full * round(share * size)).ljust(size, signs.empty)
        step += f"/{snapshot.max_steps} {bar} {percent(share)}"
    problems = [signs.line(problem, width, "red") for problem in snapshot.problems]
    return [
        signs.line("  ".join([str(snapshot.run_dir), *about]), width, "bold"),
        state,
        *problems,
        signs.line(step, width),
    ]


def _state(snapshot: Snapshot) -> str:
    kind, quiet = snapshot.state.kind, duration(snapshot.state.quiet)
    if kind == "empty":
        return "empty: waiting for a run"
    parts = [kind]
    if snapshot.speed is not None and kind != "stopped":
        parts.append(f"{number(snapshot.speed)} steps/s")
        if kind == "running" and snapshot.max_steps and snapshot.step:
            left = max(0, snapshot.max_steps - snapshot.step) / snapshot.speed
            parts.append(f"ETA {duration(left)}")
    if snapshot.seconds is not None:
        parts.append(f"took {duration(snapshot.seconds)}, start and evaluation included")
    if kind == "stopped":
        parts.append("not finished")
    if kind != "finished":
        parts.append(f"last wrote {quiet} ago")
    return ", ".join(parts)


def _curve_table(curves: Mapping[str, Curve], catalogue: Catalogue, signs: _Signs, *, width: int) -> Table | None:
    # Classes have bars of their own.
    watched = [metric for metric in catalogue.arrange(curves) if Place.WATCH in metric.places]
    metrics = [metric for metric in watched if CLASS_COUNTS.part_of(metric.name) is None]
    if not metrics:
        return None
    table = Table(box=signs.lines, pad_edge=False, show_edge=False)
    for header in ("", "last", "lowest", "highest", "course"):
        table.add_column(header, justify="left" if header in {"", "course"} else "right", no_wrap=True)
    for metric in metrics:
        values = curves[metric.name].values
        write = percent if metric.kind.is_share else number
        finite = [value for value in values if math.isfinite(value)] or [math.nan]
        cells = [write(value) if math.isfinite(value) else "nan" for value in (values[-1], min(finite), max(finite))]
        course = sparkline(values, width=max(8, width - CURVE_START), levels=signs.levels, bad=signs.bad)
        table.add_row(signs.line(metric.in_row, ROW_LENGTH), *map(signs.text, cells), Text(course))
    return table


def _class_bars(curves: Mapping[str, Curve], signs: _Signs, *, width: int, rows: int | None) -> list[Text]:
    """Return the classes with their accepted pseudo-labels per step; of many, those with fewest and with most."""
    last = {CLASS_COUNTS.part_of(name): curve.values[-1] for name, curve in curves.items()}
    counts = {name: count for name, count in last.items() if name is not None and math.isfinite(count)}
    if not counts:
        return []
    title = "Accepted pseudo-labels of each class per step"
    columns = max(1, width // CLASS_WIDTH)
    room = len(counts) if rows is None else columns * rows
    shown = list(counts)
    if len(shown) > room:
        half = room // 2
        shown.sort(key=lambda name: counts[name])
        shown[half:-half] = []
        title += f": {half} fewest, {half} most of {len(counts)}"
    highest = max(*counts.values(), 1e-9)
    cells = []
    for name in shown:
        bar = signs.full * round(counts[name] / highest * BAR_WIDTH)
        label = signs.line(name, NAME_WIDTH).plain
        # Not by format(): a Chinese letter is two columns wide.
        cells.append(f"{set_cell_size(label, NAME_WIDTH)} {bar:{BAR_WIDTH}} {number(counts[name])}")
    length = -(-len(cells) // columns)  # read down, then to the right
    lines = ["".join(set_cell_size(cell, CLASS_WIDTH) for cell in cells[row::length]) for row in range(length)]
    return [signs.line(title, width, "bold"), *(signs.line(line, width) for line in lines)]
