"""The fast recipe from the command line: it resumes to the bit, and says what is wrong in its own settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Cli = Callable[..., None]

SMALL = (
    "experiment=digits_fast", "data.batch_size=8", "data.mu=2", "model=wrn_small", "trainer.max_steps=6",
    "eval_every=3", "checkpoint.every_n_steps=2", "checkpoint.keep=3", "trainer.precision=32-true",
    "pseudo_labels.threshold=0.2", "data.ramp.batch_size=[[0.4,0.5]]", "data.ramp.mu=[[0.5,1]]",
    "data.ramp.side=[[0.7,0.75]]",
)  # fmt: skip


def state(folder: Path, run: str, step: int) -> dict[str, torch.Tensor]:
    checkpoint: dict[str, Any] = torch.load(folder / run / "checkpoints" / f"step-{step:07d}.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def test_a_run_with_ramps_resumes_to_the_bit(cli: Cli, in_empty_folder: Path) -> None:
    cli(*SMALL, "run_dir=whole")
    cli(*SMALL, "run_dir=resumed", "ckpt_path=whole/checkpoints/step-0000002.ckpt")
    start, whole = (state(in_empty_folder, "whole", step) for step in (2, 6))
    resumed = state(in_empty_folder, "resumed", 6)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert any(not torch.equal(start[name], value) for name, value in whole.items())
    assert "mu 1 until 50 %; side x 0.75 until 70 %" in (in_empty_folder / "whole" / "plan.json").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.ramp.mu=[[0.5,0]]", "data.ramp.mu=0 is not legal"),
        ("data.ramp.size=[[0.5,1]]", "data.ramp"),
        ("data.ramp.side=[[0.5,0.01]]", "images of 1x1 are too small for views.pad"),
        ("schedule.warmup=1", "schedule.warmup=1 is not legal"),
        ("compile=maybe", "compile='maybe' is not legal: choose one of auto, true, false"),
    ],
)
def test_a_mistake_is_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], in_empty_folder: Path, override: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*SMALL, "run_dir=out", "views.pad=0.6", override)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(in_empty_folder.iterdir())
