"""Losses that are not finite."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import digits_data, small_algorithm
from tests.faults.runs import SMALL, finish, start

from layermatch.checkpoints import read_checkpoint
from layermatch.data.batch import Batch
from layermatch.errors import RunError
from layermatch.layerwise import SeparateLosses
from layermatch.trainer import make_trainer
from layermatch.training import SemiSupervisedModule


class Poisoned(SemiSupervisedModule):
    """Its images are not finite in the steps that are named, counting those that are not applied."""

    bad: frozenset[int] = frozenset()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.next_batch // self.accumulate in self.bad:
            batch.labelled.views["weak"][0, 0, 0, 0] = float("nan")
            if batch.unlabelled is not None:
                batch.unlabelled.views["weak"][1] = float("inf")
                batch.unlabelled.views["strong"][2] = float("nan")
        super().training_step(batch, batch_idx)


def train(bad: set[int], *, max_steps: int, out: Path, **options: Any) -> Poisoned:
    data = digits_data(num_val=0)
    reading = options.pop("avg_clustering", "ema_centroids")
    algorithm = small_algorithm(data, SeparateLosses(avg_clustering=reading), kind=Poisoned, threshold=0.11, **options)
    algorithm.bad = frozenset(bad)
    trainer = make_trainer(
        accelerator="cpu", precision="32-true", max_steps=max_steps, eval_every=100, accumulate=algorithm.accumulate,
        run_dir=out, callbacks=[], loggers=[],
    )  # fmt: skip
    trainer.fit(algorithm, datamodule=data)
    return algorithm


@pytest.mark.parametrize("reading", ["ema_classifier", "ema_outputs", "ema_centroids"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_is_not_applied(
    reading: str, accumulate: int, tmp_path: Path, fault: Callable[..., None]
) -> None:
    options = {"avg_clustering": reading, "accumulate": accumulate}
    # The last step of one run is the last but one of the other, which has one more that is rejected.
    before = train(set(), max_steps=3, out=tmp_path, **options)
    after = train({3}, max_steps=4, out=tmp_path, **options)
    assert after.guard.num_rejected == 1
    assert after.trainer.global_step == 4
    for name, value in after.state_dict().items():
        assert value.isfinite().all(), name
    assert all(math.isfinite(value) for value in after.latest.values())  # no NaN in what is shown
    # ... and nothing of the rejected step is in the weights: the batch after it was trained on from where it stood.
    skipped = train_and_skip(before, accumulate=accumulate, out=tmp_path, reading=reading)
    for name, value in skipped.state_dict().items():
        assert torch.equal(value, after.state_dict()[name]), name
    fault(f"one step not finite ({reading}, {accumulate} accumulated)", tried=1, survived=1, lost="that step")


def train_and_skip(before: Poisoned, *, accumulate: int, out: Path, reading: str) -> Poisoned:
    """Go on from ``before`` with the batches after the bad one."""
    data = digits_data(num_val=0)
    algorithm = small_algorithm(
        data, SeparateLosses(avg_clustering=reading), kind=Poisoned, threshold=0.11, accumulate=accumulate
    )
    trainer = make_trainer(
        accelerator="cpu", precision="32-true", max_steps=4, eval_every=100, accumulate=accumulate, run_dir=out,
        callbacks=[], loggers=[],
    )  # fmt: skip
    before.trainer.save_checkpoint(out / "before.ckpt")
    checkpoint = torch.load(out / "before.ckpt", weights_only=True)
    checkpoint["guard"]["num_rejected"] = 1  # its batch is used up
    torch.save(checkpoint, out / "skipped.ckpt")
    trainer.fit(algorithm, datamodule=data, ckpt_path=out / "skipped.ckpt", weights_only=True)
    return algorithm


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^3 steps in a row .* step 3: losses .*learning rate .*gradient"):
        train({2, 3, 4}, max_steps=9, out=tmp_path, max_nonfinite=3)
    train({2, 3, 5, 6}, max_steps=9, out=tmp_path, max_nonfinite=3)  # never three in a row


@pytest.mark.slow
def test_a_run_that_diverges_stops_with_a_diagnosis(tmp_path: Path, fault: Callable[..., None]) -> None:
    process = start(tmp_path, "run_dir=out", "trainer.max_steps=200", "optimizer.lr=1e18", *SMALL)
    status, text = finish(process)
    assert status == 1, text
    last = text.splitlines()[-1]
    for word in ("10 steps in a row were not finite", "losses", "learning rate 1e+18", "extractor", "classifier"):
        assert word in last
    found = list((tmp_path / "out/checkpoints").glob("*.ckpt"))
    for path in found:
        assert all(value.isfinite().all() for value in read_checkpoint(path)["state_dict"].values())
    if (tmp_path / "out/metrics.csv").exists():
        with (tmp_path / "out/metrics.csv").open() as file:
            values = [value for row in csv.DictReader(file) for value in row.values()]
        assert not {"nan", "inf", "-inf"} & set(values)
    fault("loss not finite for 10 steps (status 1)", tried=1, survived=1, lost="nothing before it")


@pytest.mark.slow
def test_resuming_after_a_rejected_step_is_exact(tmp_path: Path) -> None:
    whole = train({2}, max_steps=8, out=tmp_path)
    part = train({2}, max_steps=5, out=tmp_path)
    part.trainer.save_checkpoint(tmp_path / "part.ckpt")
    data = digits_data(num_val=0)
    resumed = small_algorithm(data, SeparateLosses(avg_clustering="ema_centroids"), kind=Poisoned, threshold=0.11)
    trainer = make_trainer(
        accelerator="cpu", precision="32-true", max_steps=8, eval_every=100, accumulate=1, run_dir=tmp_path,
        callbacks=[], loggers=[],
    )  # fmt: skip
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "part.ckpt", weights_only=True)
    assert resumed.guard.num_rejected == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
