"""Figures: curves from whatever a run has logged, and mistakes of any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from layermatch.callbacks import PredictionTable
from layermatch.data.sources import Digits, ImageSet
from layermatch.figures import FIGURES, draw_curves, draw_mistakes, read_metrics


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    columns = sorted({name for row in rows for name in row})
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def metric_of(pattern: str) -> str:
    return pattern.replace("*", "groups.0")


def test_every_panel_is_drawn_where_there_is_something_of_it(tmp_path: Path) -> None:
    names = [metric_of(pattern) for panels in FIGURES.values() for panel in panels for pattern in panel.lines]
    rows = [{"step": step, **dict.fromkeys(names, 0.5**step)} for step in (1, 5, 9)]
    metrics = write(tmp_path / "metrics.csv", rows)
    assert set(read_metrics(metrics)) == set(names)
    draw_curves(metrics, tmp_path / "whole")
    assert {path.stem for path in (tmp_path / "whole").iterdir()} == set(FIGURES)
    for name, panels in FIGURES.items():
        whole = imread(tmp_path / "whole" / f"{name}.png")
        one = metric_of(next(iter(panels[0].lines)))
        draw_curves(write(tmp_path / "one.csv", [{"step": 3, one: 0.0}]), tmp_path / name)  # a 0, and on its own
        (path,) = (tmp_path / name).iterdir()
        assert path.name == f"{name}.png"
        assert imread(path).shape[1] < whole.shape[1]


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
