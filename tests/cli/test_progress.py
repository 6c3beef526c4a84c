"""The progress display on a terminal and without one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from layermatch.callbacks import ProgressDisplay
from layermatch.console import Reporter

Make = Callable[..., Any]


def test_a_bar_on_a_terminal_and_lines_in_the_log(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    screen = io.StringIO()
    reporter = Reporter(tmp_path / "run.log", terminal=Console(file=screen, force_terminal=True, width=140))
    data = make_data()
    algorithm = make_algorithm(data, log_every=1)
    train(algorithm, data, tmp_path, max_steps=4, eval_every=2, callbacks=[ProgressDisplay(reporter)])
    reporter.close()
    assert "4/4" in screen.getvalue()
    assert "L_feat" in screen.getvalue()
    log = (tmp_path / "run.log").read_text()
    assert "step 2/4" in log
    assert "ema 0." in log
    assert "\x1b" not in log


def test_lines_between_evaluations_when_time_passes(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    screen = io.StringIO()
    reporter = Reporter(terminal=Console(file=screen, width=140))
    data = make_data()
    display = ProgressDisplay(reporter, line_every=1e-6)
    train(make_algorithm(data, log_every=1), data, tmp_path, max_steps=3, callbacks=[display])
    lines = screen.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    assert all("ETA 0:00:0" in line for line in lines)
