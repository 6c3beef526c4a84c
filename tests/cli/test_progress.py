"""The progress display on a terminal and without one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
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


def test_a_line_without_values_says_why(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    screen = io.StringIO()
    data = make_data()
    for max_steps, log_every in ((2, 50), (3, 2)):
        display = ProgressDisplay(Reporter(terminal=Console(file=screen, width=140)), line_every=1e-6)
        train(make_algorithm(data, log_every=log_every), data, tmp_path, max_steps=max_steps, callbacks=[display])
    said = [line.split("  ", 2)[2] for line in screen.getvalue().splitlines()]
    assert said[:2] == ["no values: one log line every 50 steps (trainer.log_every)"] * 2
    assert said[2] == "values from step 2 on"
    assert all(line.startswith("L_feat ") for line in said[3:])


class LongRun(Callback):
    """The values of a run in trouble, which is stopped after two steps."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.lines.latest |= {
            "loss/features": 9876.54321, "loss/classifier": 123.456, "pseudo_labels/mask_rate": 1.0,
            "pseudo_labels/accuracy_accepted": 0.999, "val/accuracy": 1.0, "val/accuracy_ema": 0.98765,
        }  # fmt: skip
        trainer.should_stop = trainer.global_step == 2


VALUES = "L_feat 9876 L_cls 123.4 mask 100% right 100% ema 0.988 val 1.000"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_longest_line_fits_100_columns(
    is_terminal: bool, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    screen = io.StringIO()
    reporter = Reporter(terminal=Console(file=screen, width=100, force_terminal=is_terminal, color_system=None))
    data = make_data()
    display = ProgressDisplay(reporter, line_every=1e-9)
    display_last = [LongRun(), display]
    train(make_algorithm(data), data, tmp_path, max_steps=2**20, callbacks=display_last)
    last = screen.getvalue().replace("\r", "\n").splitlines()
    lines = [line for line in last if VALUES in line]
    assert lines
    for line in lines:
        assert "2/1048576" in line or "1/1048576" in line
        # A later step has six digits more; the bar leaves their room already.
        assert is_terminal or len(line) + 6 <= 100
