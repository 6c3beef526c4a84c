"""Figures: curves from whatever a run has logged, and mistakes of any number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from layermatch.callbacks import PredictionTable
from layermatch.catalogue import VALUE, Metric, Panel
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import Digits, ImageSet
from layermatch.figures import Curves, _curve_panels, _figures, _pairs, draw_curves, draw_mistakes, read_metrics
from layermatch.metrics import CATALOGUE

pytestmark = pytest.mark.pictures


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    columns = sorted({name for row in rows for name in row})
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


#: Picture -> names that it shows, a member of each family among them.
FIGURES: dict[str, list[str]] = {}
for metric in CATALOGUE.metrics:
    if metric.panel is not None:
        FIGURES.setdefault(metric.panel.figure, []).append(metric.of("groups.0"))


def test_every_panel_is_drawn_where_there_is_something_of_it(tmp_path: Path) -> None:
    names = [name for each in FIGURES.values() for name in each]
    rows = [{"step": step, **dict.fromkeys(names, 0.5**step)} for step in (1, 5, 9)]
    metrics = write(tmp_path / "metrics.csv", rows)
    assert set(read_metrics(metrics)) == set(names)
    draw_curves(metrics, tmp_path / "whole")
    assert {path.stem for path in (tmp_path / "whole").iterdir()} == set(FIGURES)
    assert set(FIGURES) == {"curves", "pseudo_labels", "layers", "features"}
    for figure, (first, *_) in FIGURES.items():
        whole = imread(tmp_path / "whole" / f"{figure}.png")
        draw_curves(write(tmp_path / "one.csv", [{"step": 3, first: 0.0}]), tmp_path / figure)  # a 0, and on its own
        (path,) = (tmp_path / figure).iterdir()
        assert path.name == f"{figure}.png"
        assert imread(path).shape[1] < whole.shape[1]


def test_a_method_has_a_picture_of_its_own(tmp_path: Path) -> None:
    own = Metric("bank/age", VALUE, "Age of the bank", panel=Panel("bank", "Age"))
    metrics = write(tmp_path / "metrics.csv", [{"step": step, "bank/age": step} for step in (1, 2, 3)])
    draw_curves(metrics, tmp_path / "figures", catalogue=CATALOGUE.plus([own]))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["bank.png"]


def test_no_legend_covers_a_curve_and_a_logarithmic_axis_has_plain_numbers() -> None:
    curves: Curves = {}
    for part in range(7):
        for norm in ("grad_norm_supervised", "grad_norm_pseudo"):
            curves[f"layers/groups.{part}/{norm}"] = (np.array([1.0, 5.0, 9.0]), np.array([2.5, 0.6, 0.2]) / (part + 1))
    (panels,) = _figures(CATALOGUE.arrange(curves)).values()
    figure = _curve_panels(panels, curves)
    figure.draw_without_rendering()
    assert len(figure.axes) == 2
    for axis in figure.axes:
        legend = axis.get_legend()
        assert legend is not None
        assert len(legend.get_texts()) == 7
        box = legend.get_window_extent()
        assert not axis.get_window_extent().overlaps(box)
        assert figure.bbox.contains(box.x0, box.y0)
        assert axis.get_yscale() == "log"
        texts = [label.get_text() for label in axis.get_yticklabels(which="both") if label.get_text()]
        assert len(texts) > 1
        assert all(float(text) > 0 for text in texts)  # no formula, such as 6x10^-1


def test_views_are_headed_by_the_class_and_by_what_is_labelled(make_data: Callable[..., SemiSupervisedData]) -> None:
    data = make_data(num_labels=500)  # a third of the pool
    figure = _pairs(data, num_images=16)
    raw = data.training_steps()[0].unlabelled
    assert figure is not None
    assert raw is not None
    headings = [axis.get_title() for axis in figure.axes[:16]]
    expected = []
    for row, label in zip(raw.indices.tolist(), raw.label.tolist(), strict=True):
        position = int(data.split.in_pool[row])
        true = str(int(data.content.labelled.labels[position]))
        expected.append(f"{true}\n(labelled)" if position in data.split.labelled else true)
        assert (label < 0) == (position in data.split.labelled)
    assert headings == expected
    assert 0 < sum("labelled" in heading for heading in headings) < 16


def test_nothing_logged_draws_nothing(tmp_path: Path) -> None:
    draw_curves(write(tmp_path / "metrics.csv", [{"step": 1, "something/else": 1.0}]), tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    test = Digits().load().test
    assert test is not None
    return test


def table_of(digits: ImageSet, wrong: int) -> PredictionTable:
    label = torch.from_numpy(digits.labels)
    prediction = label.clone()
    prediction[:wrong] = (prediction[:wrong] + 1) % 10
    return PredictionTable(torch.arange(len(label)), label, prediction, torch.linspace(0.3, 1, len(label)))


@pytest.mark.parametrize(("wrong", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (7, 2, 5), (40, 5, 5)])
def test_mistakes_are_drawn_in_a_grid(wrong: int, rows: int, columns: int, digits: ImageSet, tmp_path: Path) -> None:
    names = tuple(f"a class of a long name {digit}" for digit in range(10))
    draw_mistakes(table_of(digits, wrong), digits, names, tmp_path / "mistakes.png")
    height, width, _ = imread(tmp_path / "mistakes.png").shape
    assert (height, width) == pytest.approx((120 * (1.9 * rows + 0.7), 120 * max(1.5 * columns, 4)), abs=2)


def test_without_a_mistake_there_is_no_picture(digits: ImageSet, tmp_path: Path) -> None:
    draw_mistakes(table_of(digits, 0), digits, tuple(map(str, range(10))), tmp_path / "mistakes.png")
    assert list(tmp_path.iterdir()) == []
    assert np.unique(digits.labels).size == 10
