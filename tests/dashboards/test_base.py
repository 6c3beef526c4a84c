"""What a finished run shows: every picture in its folder, and the accuracy of each class where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from numpy.typing import NDArray
from PIL import Image

from layermatch.dashboards import About, Dashboard, begin, close, show_results


class Diary(DummyLogger, Dashboard):
    """A dashboard that writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Any] = []

    def begin(self, about: About) -> None:
        self.entries.append(about)

    def show_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int, caption: str = "") -> None:
        self.entries.append((name, pixels.shape[2], step))

    def show_results(self, results: Mapping[str, Any]) -> None:
        self.entries.append(results)

    def close(self, *, failed: bool) -> None:
        self.entries.append(failed)


def test_only_dashboards_are_told_and_in_order(tmp_path: Path) -> None:
    for name, mode in (("mistakes", "RGB"), ("curves", "L")):
        Image.new(mode, (6, 4)).save(tmp_path / f"{name}.png")
    diary, settings = Diary(), {"name": "digits", "algorithm": {"name": "fixmatch"}, "seed": 0}
    loggers = [CSVLogger(tmp_path), diary]
    results = {"steps": 7, "classes": ["a", "b"], "confusion": [[3, 1], [0, 2]]}
    begin(loggers, settings, overrides=["seed=0", "optimizer.lr=0.1"], sweep="s", run_id="r")
    show_results(loggers, results, tmp_path)
    close(loggers, failed=True)
    assert diary.entries == [
        About(settings, ("optimizer.lr=0.1",), "s", "r"),
        ("figures/curves", 3, 7), ("figures/mistakes", 3, 7), ("figures/per_class", 3, 7),
        results, True,
    ]  # fmt: skip


def test_results_without_a_test_set(tmp_path: Path) -> None:
    diary = Diary()
    for results in ({"steps": 7}, {"steps": 7, "classes": ["a"], "confusion": None}):
        show_results([diary], results, tmp_path / "nowhere")
    assert diary.entries == [{"steps": 7}, {"steps": 7, "classes": ["a"], "confusion": None}]
