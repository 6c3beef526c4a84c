"""Curves over seeds, and where they are drawn."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest

from layermatch.report.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    NamedCurve,
    draw_lines,
    draw_matrix,
)
from layermatch.report.curves import mean_curve
from layermatch.runs.metrics_file import Curve

DRAWN = re.compile(r"-?\d+(?:\.\d+)?")


def named(name: str, *curves: Curve, style: int = 0) -> NamedCurve:
    mean = mean_curve(curves)
    assert mean is not None
    return NamedCurve(name, name, style, mean)


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(text) for text in DRAWN.findall(path)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_mean_and_deviation_are_over_the_runs_at_common_steps() -> None:
    curve = mean_curve([Curve([1, 2, 3], [0.0, 1.0, 2.0]), Curve([2, 3, 9], [3.0, 2.0, 7.0])])
    assert curve is not None
    assert curve.steps.tolist() == [2.0, 3.0]
    assert curve.mean.tolist() == [2.0, 2.0]
    assert curve.std is not None
    assert curve.std.tolist() == pytest.approx([2**0.5, 0.0])
    assert curve.n == 2


def test_one_run_has_no_deviation_and_none_has_no_curve() -> None:
    alike = mean_curve([Curve([1], [0.1])] * 3)
    assert alike is not None
    assert alike.std is not None
    assert alike.std.tolist() == [0]
    single = mean_curve([Curve([1], [2.0])])
    assert single is not None
    assert single.std is None
    assert mean_curve([]) is None
    assert mean_curve([Curve([1], [2.0]), Curve([2], [2.0])]) is None


@pytest.mark.parametrize("count", [199, 200, 201, 1000, 1001])
def test_long_curves_are_merged_and_keep_their_mean(count: int) -> None:
    values = np.random.default_rng(count).random((3, count))
    curve = mean_curve([Curve(list(range(count)), row.tolist()) for row in values], max_points=200)
    assert curve is not None
    assert len(curve.mean) <= 200
    sizes = np.diff([*range(0, count, curve.merged), count])
    assert np.average(curve.mean, weights=sizes) == pytest.approx(values.mean())
    assert curve.steps[-1] == count - 1
    assert len(curve.steps) == len(curve.mean)


def test_lines_stay_inside_and_higher_values_are_higher_up() -> None:
    up, down = named("up", Curve([0, 10], [0.0, 1.0])), named("down", Curve([0, 10], [1.0, 0.0]), style=1)
    chart = draw_lines("t", [up, down], is_share=False)
    assert chart is not None
    (x0, y0), (x1, y1) = points(chart.lines[0].path)
    assert (x0, x1) == (LEFT, WIDTH - RIGHT)
    assert y0 > y1
    assert points(chart.lines[1].path) == [(x0, y1), (x1, y0)]
    assert {TOP <= y <= HEIGHT for y in (y0, y1)} == {True}
    assert (chart.lines[0].colour, chart.lines[0].dash) != (chart.lines[1].colour, chart.lines[1].dash)


def test_no_two_of_thirty_lines_look_the_same() -> None:
    curves = [named(str(style), Curve([0, 1], [0.0, 1.0]), style=style) for style in range(30)]
    chart = draw_lines("t", curves, is_share=False)
    assert chart is not None
    looks = {(line.colour, line.dash) for line in chart.lines}
    assert len(looks) == 30
    assert all(a.dash != b.dash and a.colour != b.colour for a, b in pairwise(chart.lines))


def test_labels_do_not_touch() -> None:
    curves = [named(str(place), Curve([0, 1], [0.5, 0.9 + place / 1000]), style=place) for place in range(8)]
    chart = draw_lines("t", curves, is_share=True)
    assert chart is not None
    places = sorted(line.label_y for line in chart.lines)
    assert min(b - a for a, b in pairwise(places)) >= 13.9
    assert places[0] >= 0
    assert places[-1] <= HEIGHT
    higher = sorted(chart.lines, key=lambda line: -line.end[1])
    assert [line.label_y for line in higher] == sorted((line.label_y for line in higher), reverse=True)


def test_a_band_is_a_deviation_up_and_down() -> None:
    chart = draw_lines("t", [named("a", Curve([0, 1], [1.0, 1.0]), Curve([0, 1], [3.0, 3.0]))], is_share=False)
    assert chart is not None
    band, line = points(chart.lines[0].band), points(chart.lines[0].path)
    heights = sorted({y for _, y in band})
    assert len(heights) == 2
    assert np.mean(heights) == pytest.approx(line[0][1], abs=0.1)


def test_what_is_not_finite_is_a_gap() -> None:
    curve = Curve([1, 2, 3, 4, 5], [1.0, float("nan"), 2.0, float("inf"), float("nan")])
    chart = draw_lines("t", [named("a", curve)], is_share=False)
    assert chart is not None
    assert chart.lines[0].path.count("M") == 2
    assert len(chart.lines[0].points) == 2
    assert "nan" not in chart.lines[0].path
    assert "at step 3" in chart.description
    assert draw_lines("t", [named("a", Curve([1], [float("nan")]))], is_share=False) is None


@pytest.mark.parametrize("value", [0.0, 0.3, 0.7, 1.0])
def test_a_share_stays_between_0_and_100_percent(value: float) -> None:
    curves = [Curve([0, 1], [value + noise, value]) for noise in (0.0, 1e-16, 2e-16)]
    chart = draw_lines("t", [named("a", *curves)], is_share=True)
    assert chart is not None
    shown = [float(tick.text.removesuffix("\xa0%")) for tick in chart.y_ticks]
    assert len(shown) >= 2
    assert 0 <= min(shown) <= max(shown) <= 100
    assert len({y for _, y in points(chart.lines[0].band)}) <= 2
    assert max(y for _, y in points(chart.lines[0].band)) - min(y for _, y in points(chart.lines[0].band)) < 1


@pytest.mark.parametrize(
    ("values", "is_share"),
    [([0.5], True), ([0.0, 0.0], True), ([1.0, 1.0], True), ([-3.0], False), ([0.0], False), ([1e-8, 1e8], False),
     ([1e-300, 1e300], False), ([-1e300, 1e300], False), ([1e16, 1e16 + 2], False)],
)  # fmt: skip
def test_any_range_can_be_drawn(values: list[float], is_share: bool) -> None:
    chart = draw_lines("t", [named("a", Curve(list(range(len(values))), values))], is_share=is_share)
    assert chart is not None
    assert chart.y_ticks
    assert all(0 <= tick.at <= HEIGHT for tick in chart.y_ticks)
    assert all(0 <= y <= HEIGHT and 0 <= x <= WIDTH for x, y in points(chart.lines[0].path))


def test_losses_over_decades_are_on_a_log_scale_and_say_so() -> None:
    curve = named("a", Curve([0, 1, 2], [1.0, 0.1, 0.01]), Curve([0, 1, 2], [1.0, 0.3, 0.01]))
    chart = draw_lines("Loss", [curve], is_share=False)
    assert chart is not None
    assert chart.title == "Loss (log scale)"
    assert [tick.text for tick in chart.y_ticks] == ["0.01", "0.1", "1"]
    distances = np.diff([tick.at for tick in chart.y_ticks])
    assert distances[0] == pytest.approx(distances[1], abs=0.2)
    linear = draw_lines("Loss", [named("a", Curve([0, 1], [1.0, 0.0]))], is_share=False)
    assert linear is not None
    assert linear.title == "Loss"


def test_the_description_has_last_values_with_n() -> None:
    both = named("both", Curve([5], [0.5]), Curve([5], [0.7]))
    chart = draw_lines("t", [both, named("one", Curve([5], [0.939]), style=1)], is_share=True)
    assert chart is not None
    assert chart.description.replace("\xa0", " ") == (
        "Last values: both 60.0 % ± 14.1 (n 2) at step 5; one 93.9 % (n 1) at step 5."
    )


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 150])
def test_a_matrix_has_a_cell_for_each_pair_that_occurs(classes: int) -> None:
    counts = np.random.default_rng(classes).integers(0, 3, (classes, classes)).astype(float)
    counts[0], counts[1, 1] = 0.0, 1.0  # a class without test images
    matrix = draw_matrix("t", counts, [f"class {place}" for place in range(classes)], description="d")
    assert sum(path.count("M") for _, path in matrix.shades) == (counts > 0).sum()
    assert all(0 < opacity <= 1 for opacity, _ in matrix.shades)
    assert bool(matrix.numbers) == (classes <= 20)
    assert len(matrix.rows) == (classes if classes <= 20 else 0)
    assert matrix.left + matrix.side <= WIDTH
