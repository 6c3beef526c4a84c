"""Runs with stages and with episodes, from the command line: their checkpoints, and that they go on to the bit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., None]

SMALL = (
    "experiment=digits", "data.batch_size=8", "data.mu=2", "model.width=1", "trainer=cpu", "trainer.precision=32-true",
    "trainer.max_steps=8", "trainer.log_every=8", "eval_every=8", "checkpoint.every_n_steps=4", "checkpoint.keep=9",
    "algorithm.layer_gradients_every=0",
)  # fmt: skip
#: Step 4 is where the third part of R2-D2 begins, and the first step of another episode.
R2D2 = ("algorithm=r2d2", "algorithm.supervised=0.25", "algorithm.decipher=0.25", "algorithm.reprediction=0.25")
IMWA = ("algorithm=fixmatch", "pseudo_labels.threshold=0.11", "algorithm.imwa={members: 2, episode: 2}")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [R2D2, IMWA], ids=["r2d2", "imwa"])
def test_a_run_goes_on_to_the_bit(algorithm: tuple[str, ...], cli: Cli) -> None:
    cli("run_dir=whole", *SMALL, *algorithm)
    cli("run_dir=rest", *SMALL, *algorithm, "ckpt_path=whole/checkpoints/step-0000004.ckpt")
    whole, rest = (json.loads(Path(name, "results.json").read_text()) for name in ("whole", "rest"))
    assert whole["steps"] == rest["steps"] == 8
    assert whole["loss"]
    for section in ("loss", "val", "test", "confusion"):
        assert whole[section] == rest[section], section
    with Path("whole/metrics.csv").open() as file:
        assert any(row["loss/pseudo"] for row in csv.DictReader(file))
