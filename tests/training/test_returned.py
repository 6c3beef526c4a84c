"""What ``trainer.test`` and ``trainer.validate`` return and print under a Trainer of one's own, and log once."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from layermatch import Supervised, loggers
from layermatch.data.batch import Views
from layermatch.networks import wrn_small

Make = Callable[..., Any]


class LoggersAtTheEnd(Callback):
    """Keeps the loggers that a callback finds after an evaluation."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found = list(trainer.loggers)


def accuracies(split: str) -> set[str]:
    return {f"{split}/accuracy", f"{split}/accuracy_ema"}


def test_a_test_returns_and_prints_its_accuracies_and_is_logged_once(
    make_data: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(views=Views())
    model = Supervised(wrn_small(in_channels=1), accumulate=2, log_every=1, layer_gradients_every=0)
    logger = loggers.csv(run_dir=tmp_path, first_step=0)
    seen = LoggersAtTheEnd()
    trainer = Trainer(
        max_steps=2, max_epochs=-1, accelerator="cpu", logger=logger, callbacks=[seen], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        val_check_interval=4, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    capsys.readouterr()
    (tested,) = trainer.test(model, datamodule=data)
    printed = capsys.readouterr().out
    assert set(tested) == accuracies("test")
    assert all(0 <= value <= 1 for value in tested.values())
    assert all(name in printed and str(value) in printed for name, value in tested.items())
    assert seen.found == list(logger)
    assert trainer.loggers == list(logger)
    (validated,) = trainer.validate(model, datamodule=data, verbose=False)
    assert capsys.readouterr().out == ""
    assert set(validated) == accuracies("val")
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "epoch" not in rows[0]
    logged = {split: [row for row in rows if row[f"{split}/accuracy"]] for split in ("test", "val")}
    assert [(int(row["step"]), float(row["test/accuracy_ema"])) for row in logged["test"]] == [
        (2, pytest.approx(tested["test/accuracy_ema"]))
    ]
    assert [int(row["step"]) for row in logged["val"]] == [2, 2]  # in training, and once more


def test_without_a_logger_the_same_is_returned(
    make_data: Make, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    data = make_data(views=Views())
    model = Supervised(wrn_small(in_channels=1))
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    (tested,) = trainer.test(model, datamodule=data, verbose=False)
    assert set(tested) == accuracies("test")
    assert trainer.loggers == []
    assert [str(warning.message) for warning in recwarn if "no logger" in str(warning.message)] == []
