"""Which signals ask a run to stop, and which it leaves as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from layermatch.callbacks import CheckpointWriter, StopSignals
from layermatch.errors import StoppedError


@contextmanager
def handled_by(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_asks_to_stop(name: str) -> None:
    signals = StopSignals()
    with handled_by(signal.Signals[name], signal.SIG_DFL):
        signals.install()
        os.kill(os.getpid(), signal.Signals[name])
        signals.remove()
        assert signals.received == name
        assert signal.getsignal(signal.Signals[name]) == signal.SIG_DFL


def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed() -> None:
    signals = StopSignals()
    with handled_by(signal.SIGHUP, signal.SIG_IGN):
        signals.install()
        os.kill(os.getpid(), signal.SIGHUP)
        signals.remove()
        assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_one_process_agrees_with_itself_without_its_device() -> None:
    signals = StopSignals()
    assert not signals.agreed(torch.device("meta"))  # of which nothing can be read
    signals.received = "SIGTERM"
    assert signals.agreed(torch.device("meta"))


class ClosedTerminal(Callback):
    """The terminal is closed at the second step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGHUP)


def test_a_closed_terminal_ends_training_after_the_step_with_a_checkpoint(
    make_data: Callable[..., Any], make_algorithm: Callable[..., Any], train: Callable[..., Trainer], tmp_path: Path
) -> None:
    data = make_data()
    writer = CheckpointWriter(tmp_path / "checkpoints", every_n_steps=100, keep=1, track_best=False)
    with (
        handled_by(signal.SIGHUP, signal.SIG_DFL),
        pytest.raises(StoppedError, match=r"^stopped by SIGHUP at step 2, .*: go on with ckpt_path=last$"),
    ):
        train(make_algorithm(data), data, tmp_path, max_steps=9, callbacks=[ClosedTerminal(), writer])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002.ckpt"]
