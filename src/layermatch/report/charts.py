"""Charts as geometry: what is drawn where. The page's template draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len

from layermatch.figure_text import short_names
from layermatch.report.curves import MeanCurve
from layermatch.runs.quantities import number, percent

__all__ = [
    "COLOURS", "DASHES", "LABEL_LENGTH", "LineChart", "Matrix", "NamedCurve", "draw_lines", "draw_matrix", "images",
]  # fmt: skip

#: Colours and dash patterns in the page's style sheet. No two of the first 30 lines share both.
COLOURS, DASHES = 6, 5

#: Units of the drawing; on a phone of 390 pixels one is about a pixel.
WIDTH, HEIGHT = 360.0, 232.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 92.0, 10.0, 36.0

#: The least distance between the base lines of two labels.
LABEL_GAP = 14.0

#: Characters of a label that fit beside the chart, and of a class name beside a matrix.
LABEL_LENGTH, CLASS_LENGTH = 12, 11

#: Highest by lowest value from which on a scale is logarithmic; it has at least one power of ten on it.
LOG_RATIO = 30.0

#: Shades of a matrix.
SHADES = 10

#: From this shade on, numbers are written in the other colour.
DARK_SHADE = 7

#: The most classes of a matrix with numbers and names: the cells of a larger one are too small for them.
NAMED_CLASSES = 20


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Args:
        at: The place in the drawing.
        text: The label of the mark.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Args:
        label: The label at the end of the curve.
        name: The name in full.
        style: The number of its colour and dash pattern.
        path: The path of the mean.
        band: The path of the band of mean ± standard deviation; empty for one run.
        points: Lone points, which no line shows.
        end: The place where the curve ends.
        label_y: The height at which its label is.
    """

    label: str
    name: str
    style: int
    path: str
    band: str
    points: tuple[tuple[float, float], ...]
    end: tuple[float, float]
    label_y: float

    @property
    def colour(self) -> int:
        """Number of the colour."""
        return self.style % COLOURS

    @property
    def dash(self) -> int:
        """Number of the dash pattern."""
        return self.style % DASHES


@dataclass(frozen=True)
class LineChart:
    """A chart of curves over the optimizer steps.

    Args:
        title: What is drawn; says so where the scale is logarithmic.
        description: The same in words, with the last values.
        lines: The curves.
        x_ticks: The ticks on the lower axis.
        y_ticks: The ticks on the left axis.
        zero: The height of 0, if it is inside; None otherwise.
    """

    title: str
    description: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float | None
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


@dataclass(frozen=True)
class NamedCurve:
    """A curve to be drawn.

    Args:
        name: The name in full.
        label: The label at the end of the curve.
        style: The number of its colour and dash pattern.
        curve: The curve that is drawn.
    """

    name: str
    label: str
    style: int
    curve: MeanCurve


def draw_lines(title: str, curves: Sequence[NamedCurve], *, is_share: bool) -> LineChart | None:
    """Lay out curves with bands of one standard deviation.

    Args:
        title: What is drawn.
        curves: The curves, with at least one point each.
        is_share: Whether the values are shares in [0, 1], to be written in per cent.

    Returns:
        None if no curve has a finite value.
    """
    curves = [named for named in curves if np.isfinite(named.curve.mean).any()]
    if not curves:
        return None
    x_low, x_high = (float(f(f(named.curve.steps) for named in curves)) for f in (min, max))
    is_log = not is_share and _spans_decades([named.curve for named in curves])
    y_low, y_high = _value_range([named.curve for named in curves], is_share=is_share, is_log=is_log)
    x_scale = _Scale(x_low, x_high if x_high > x_low else x_low + 1, LEFT, WIDTH - RIGHT)
    y_scale = _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, is_log=is_log)
    write = _percent_tick if is_share else number
    ends = [_end(named.curve, x_scale, y_scale) for named in curves]
    places = _spread([y for _, y in ends], low=TOP + 4, high=HEIGHT - BOTTOM)
    lines = [_line(named, end, y, x_scale, y_scale) for named, end, y in zip(curves, ends, places, strict=True)]
    return LineChart(
        title=f"{title} (log scale)" if is_log else title,
        description=_describe(curves, is_share=is_share),
        lines=tuple(lines),
        x_ticks=tuple(Tick(x_scale(x), number(x)) for x in _nice_ticks(x_low, x_high, 4)),
        y_ticks=tuple(Tick(y_scale(y), write(y)) for y in (_log_ticks if is_log else _nice_ticks)(y_low, y_high, 5)),
        zero=y_scale(0.0) if y_low < 0 < y_high else None,
    )


@dataclass(frozen=True)
class _Scale:
    """A scale that turns values into places."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = (math.log10(number) for number in (value, low, high))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def _spans_decades(curves: Sequence[MeanCurve]) -> bool:
    """Whether a linear scale would flatten most of the curves: all above 0, and far apart."""
    values = np.concatenate([curve.mean for curve in curves])
    return bool(np.nanmin(values) > 0 and np.nanmax(values) > LOG_RATIO * np.nanmin(values))


def _value_range(curves: Sequence[MeanCurve], *, is_share: bool, is_log: bool) -> tuple[float, float]:
    if is_log:  # of the means only: a band may reach below 0
        values = np.concatenate([curve.mean for curve in curves])
        return float(np.nanmin(values)) / 1.2, float(np.nanmax(values)) * 1.2
    parts = [curve.mean for curve in curves]
    for curve in curves:
        if curve.std is not None:
            parts += [curve.mean - curve.std, curve.mean + curve.std]
    values = np.concatenate(parts)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if 0 < low < 0.4 * high:
        low = 0.0
    size = 1.0 if is_share else max(abs(low), abs(high), 1e-300)
    if high - low < 1e-6 * size:  # nothing but rounding
        room = 0.05 if is_share else 0.5 * (abs(low) or 1.0)
        low, high = low - room, high + room
    return (max(low, 0.0), min(high, 1.0)) if is_share else (low, high)


def _nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within the range, at a distance of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(multiple * step, 12) for multiple in range(first, last + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    """Powers of ten, thinned out to about so many."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**power for power in powers[:: max(1, -(-len(powers) // (count + 1)))]]


def _percent_tick(share: float) -> str:
    return f"{number(100 * share)}\N{NO-BREAK SPACE}%"


def _runs(values: NDArray[np.float64]) -> Iterator[slice]:
    """Stretches of finite values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], np.isfinite(values), [False])).astype(np.int8)))
    yield from (slice(start, end) for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _line(named: NamedCurve, end: tuple[float, float], label_y: float, x: _Scale, y: _Scale) -> Line:
    curve = named.curve
    path, band, points = [], [], []
    for part in _runs(curve.mean):
        steps, mean = curve.steps[part], curve.mean[part]
        places = [(x(a), y(b)) for a, b in zip(steps.tolist(), mean.tolist(), strict=True)]
        if len(places) == 1:
            points += places
        path.append(_path(places))
        if curve.std is not None:
            upper, lower = (np.clip(mean + sign * curve.std[part], y.low, y.high) for sign in (1, -1))
            outline = [(x(a), y(b)) for a, b in zip(steps.tolist(), upper.tolist(), strict=True)]
            outline += [(x(a), y(b)) for a, b in zip(steps[::-1].tolist(), lower[::-1].tolist(), strict=True)]
            band.append(_path(outline) + "Z")
    return Line(
        label=named.label,
        name=named.name,
        style=named.style,
        path="".join(path),
        band="".join(band),
        points=tuple(points),
        end=end,
        label_y=label_y,
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


def _end(curve: MeanCurve, x: _Scale, y: _Scale) -> tuple[float, float]:
    last = int(np.flatnonzero(np.isfinite(curve.mean))[-1])
    return x(float(curve.steps[last])), y(float(curve.mean[last]))


def _spread(places: Sequence[float], *, low: float, high: float, gap: float = LABEL_GAP) -> list[float]:
    """Move labels apart, as little as need be, in their order and inside the chart as far as they fit."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [0.0] * len(places)
    floor = low
    for index in order:
        moved[index] = floor = max(places[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        moved[index] = ceiling = min(moved[index], ceiling)
        ceiling -= gap
    return [round(place, 1) for place in moved]


def _describe(curves: Sequence[NamedCurve], *, is_share: bool) -> str:
    write = percent if is_share else number
    texts = []
    for named in curves:
        curve = named.curve
        last = int(np.flatnonzero(np.isfinite(curve.mean))[-1])
        std = "" if curve.std is None else f" ± {_deviation(float(curve.std[last]), is_share=is_share)}"
        mean = write(float(curve.mean[last]))
        texts.append(f"{named.name} {mean}{std} (n {curve.n}) at step {curve.steps[last]:.0f}")
    return f"Last values: {'; '.join(texts)}."


def _deviation(std: float, *, is_share: bool) -> str:
    return f"{100 * std:.1f}" if is_share else number(std)


# ----------------------------------------------------------------------------------------------------------- matrices


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, each row in shares of its true class.

    Args:
        title: The title, which says what the matrix is of.
        description: Its largest confusions in words.
        shades: The path of the cells of each opacity.
        numbers: The place and the text of each number, and whether it is on a dark cell.
        rows: The labels of the true classes.
        columns: The labels of the predictions.
        side: The side of the square.
        left: The left edge of the square.
        top: The upper edge of the square.
    """

    title: str
    description: str
    shades: tuple[tuple[float, str], ...]
    numbers: tuple[tuple[float, float, str, bool], ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    side: float
    left: float
    top: float
    width: float = WIDTH

    @property
    def height(self) -> float:
        """The height of the drawing."""
        return self.top + self.side + 4


def draw_matrix(title: str, counts: NDArray[np.float64], classes: Sequence[str], *, description: str) -> Matrix:
    """Lay out a confusion matrix.

    Args:
        title: The title, which says what the matrix is of.
        counts: The counts ``(K, K)``; rows are true classes.
        classes: The names of the K classes.
        description: The description in words.
    """
    is_named = len(classes) <= NAMED_CLASSES
    names = short_names(classes, width=CLASS_LENGTH)
    longest = max(map(cell_len, names))
    margin = 12 + 6.5 * longest if is_named else 12.0
    left, top, side = margin + 10, margin + 12, WIDTH - margin - 14
    cell = side / len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    levels = np.ceil(shares * SHADES - 1e-9).astype(int)
    paths = []
    for level in range(1, SHADES + 1):
        cells = np.argwhere(levels == level).tolist()
        if cells:
            squares = [
                f"M{left + c * cell:.4g} {top + r * cell:.4g}h{cell:.4g}v{cell:.4g}h-{cell:.4g}z" for r, c in cells
            ]
            paths.append((level / SHADES, "".join(squares)))
    return Matrix(
        title=title,
        description=description,
        shades=tuple(paths),
        numbers=tuple(_numbers(counts, levels, left=left, top=top, cell=cell)) if is_named else (),
        rows=_class_ticks(names, top, cell) if is_named else (),
        columns=_class_ticks(names, left, cell) if is_named else (),
        side=side,
        left=left,
        top=top,
    )


def _numbers(
    counts: NDArray[np.float64], levels: NDArray[np.int_], *, left: float, top: float, cell: float
) -> Iterator[tuple[float, float, str, bool]]:
    for row, column in np.argwhere(counts > 0).tolist():
        x, y = left + (column + 0.5) * cell, top + (row + 0.5) * cell
        is_dark = int(levels[row, column]) >= DARK_SHADE
        yield round(x, 1), round(y, 1), images(float(counts[row, column])), is_dark


def _class_ticks(names: Sequence[str], start: float, cell: float) -> tuple[Tick, ...]:
    return tuple(Tick(round(start + (place + 0.5) * cell, 1), name) for place, name in enumerate(names))


def images(count: float) -> str:
    """A mean count of images.

    Args:
        count: The count, at least 0.

    Example:
        >>> images(35.0), images(1 / 3), images(123.4)
        ('35', '0.3', '123')
    """
    return f"{count:.0f}" if count >= 100 else f"{count:.1f}".removesuffix(".0")
