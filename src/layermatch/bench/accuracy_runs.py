"""One run whose validation accuracy is watched against the seconds that training has taken."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from layermatch.bench import conventional
from layermatch.bench.pil_pipeline import PilPipeline
from layermatch.build import RunParts, build_parts, build_trainer
from layermatch.cli import config_dir, plain
from layermatch.data.sources import ImageSet
from layermatch.errors import UserError
from layermatch.freed_memory import keep_freed_memory
from layermatch.metrics import accuracies
from layermatch.quiet import quiet_libraries
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

__all__ = ["Curve", "TrainingClock", "compose_settings", "measure_conventional", "measure_ours"]


@dataclass
class Curve:
    """The accuracy of the averaged weights on the validation images, and what training has taken until then.

    Attributes:
        steps: The optimizer steps made at each evaluation.
        seconds: The seconds of a wall clock that training had taken, without the evaluations.
        processor_seconds: Those of all processors together, of this process and of its loaders' processes.
        accuracy: The accuracy, in ``[0, 1]``.
        test_accuracy: The accuracy on the test images after the last step; None without any.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    test_accuracy: float | None = None

    def reached(self, target: float) -> int | None:
        """Return the evaluation from which on the accuracy stays at a target or above it, to the end of the run.

        Args:
            target: An accuracy, in ``[0, 1]``.

        Returns:
            The position of the evaluation; None where the last one is below.

        Example:
            >>> curve = Curve(accuracy=[0.2, 0.8, 0.7, 0.9, 0.8])
            >>> curve.reached(0.75), curve.reached(0.7), curve.reached(0.85)
            (3, 1, None)
        """
        below = [number for number, accuracy in enumerate(self.accuracy) if accuracy < target]
        first = below[-1] + 1 if below else 0
        return first if first < len(self.accuracy) else None


class TrainingClock:
    """Counts the seconds of training, with pauses; on a GPU it waits for what was asked for before each border.

    Processes of a loader go on reading a few batches ahead in a pause. That is not in the seconds of the wall clock,
    and it is in those of the processors.

    Args:
        device: What computes.

    Example:
        >>> clock = TrainingClock(torch.device("cpu"))
        >>> clock.start()
        >>> clock.pause()
        >>> clock.seconds >= 0, clock.processor_seconds >= 0
        (True, True)
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._own = 0.0
        self._others = 0.0
        self._on_gpu = device.type == "cuda"
        self._since: tuple[float, float] | None = None
        self._others_before = _seconds_of_children()

    @property
    def processor_seconds(self) -> float:
        """The seconds of all processors until the last pause."""
        return self._own + self._others

    def start(self) -> None:
        """Begin, or go on after a pause."""
        self._since = self._now()

    def pause(self) -> None:
        """Stop counting; a second time it does nothing."""
        if self._since is None:
            return
        wall, own = self._now()
        self.seconds += wall - self._since[0]
        self._own += own - self._since[1]
        self._since = None
        # Those that have ended are no more seen.
        self._others = max(self._others, _seconds_of_children() - self._others_before)

    def _now(self) -> tuple[float, float]:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def _seconds_of_children() -> float:
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class _Watch(Callback):
    """Notes the accuracy of every evaluation of a fit, and the seconds of the steps before it."""

    def __init__(self, device: torch.device) -> None:
        self.clock = TrainingClock(device)
        self.curve = Curve()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 -- Lightning's
        self.clock.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 -- Lightning's
        self.clock.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, SemiSupervisedModule):
            _note(self.curve, self.clock, step=trainer.global_step, accuracy=pl_module.evaluations[-1][1])
        self.clock.start()


def _note(curve: Curve, clock: TrainingClock, *, step: int, accuracy: float) -> None:
    curve.steps.append(step)
    curve.seconds.append(clock.seconds)
    curve.processor_seconds.append(clock.processor_seconds)
    curve.accuracy.append(round(accuracy, 6))  # float32's rounding would be below a target that was met


def compose_settings(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of a run, as its command line would compose it.

    Args:
        overrides: What the command line would say.

    Raises:
        UserError: The configuration cannot be composed.
    """
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return plain(compose("run", overrides=["run_dir=unused", *overrides]))
    except (HydraException, OmegaConfBaseException) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{' '.join(overrides)}: {said}") from error


def measure_ours(overrides: tuple[str, ...], device: torch.device) -> dict[str, Any]:
    """Train with the configuration's recipe, as ``python -m layermatch.run`` does but without checkpoints and files.

    Args:
        overrides: What the command line would say.
        device: What computes.

    Returns:
        A :class:`Curve` as plain containers.
    """
    keep_freed_memory()  # as the command does
    settings = Settings.parse(compose_settings(overrides))
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        parts = build_parts(settings)
        watch = _Watch(device)
        trainer = build_trainer(settings, run_dir=Path(folder), callbacks=[watch], loggers=[])
        trainer.fit(parts.algorithm, datamodule=parts.data)
        if parts.data.test is not None:
            (tested,) = trainer.test(parts.algorithm, datamodule=parts.data, verbose=False)
            watch.curve.test_accuracy = float(tested[accuracies("test")["ema"].name])
    return asdict(watch.curve)


def measure_conventional(overrides: tuple[str, ...], device: torch.device) -> dict[str, Any]:
    """Train FixMatch with :mod:`layermatch.bench.conventional`, with the data and the network of a configuration.

    The same images have the same labels and the network starts at the same weights as in :func:`measure_ours` with the
    same seed. Each of the two loaders has a quarter of the cores, at least two processes. Image files are decoded
    beforehand, once, which the common codes do not do. Its process keeps memory as
    the system has it.

    Args:
        overrides: What the command line would say of the data, the network, the views and the length of the run.
        device: What computes.

    Returns:
        A :class:`Curve` as plain containers.
    """
    own = ("trainer.precision=32-true", "trainer.channels_last=false", "data.storage=ram")
    settings = Settings.parse(compose_settings((*overrides, *own)))
    with quiet_libraries():
        parts = build_parts(settings)
    network = parts.algorithm.network.to(device)
    average = parts.algorithm.ema.network.to(device)
    clock, curve = TrainingClock(device), Curve()

    def on_step(step: int, loss: Tensor) -> None:  # noqa: ARG001 -- the loop's
        if step % settings.eval_every == 0:
            clock.pause()
            _note(curve, clock, step=step, accuracy=_accuracy(average, parts, parts.data.validation, device))
            clock.start()

    torch.manual_seed(settings.seed)
    clock.start()
    conventional.train(
        network, *_arrays(parts), batch_size=parts.data.batch_size, mu=parts.data.mu,
        max_steps=settings.trainer.max_steps, mean=parts.data.mean, std=parts.data.std, device=device,
        num_workers=max(2, (os.cpu_count() or 2) // 4), on_step=on_step, pipeline=_pipeline(settings), average=average,
        decay=parts.algorithm.ema_decay,
    )  # fmt: skip
    if parts.data.test is not None:
        curve.test_accuracy = _accuracy(average, parts, parts.data.test, device)
    return asdict(curve)


def _arrays(parts: RunParts) -> tuple[Any, Any, list[int]]:
    """Return the pool's pixels (N, H, W, C), its labels where they are known, and the rows of the labelled images."""
    data = parts.data
    pixels = data.unlabelled.images.read(np.arange(len(data.unlabelled)))
    rows = np.searchsorted(data.split.in_pool, np.asarray(data.split.labelled, np.int64))
    labels = np.full(len(pixels), -1, np.int64)
    labels[rows] = data.labelled.labels
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels, rows.tolist()


def _pipeline(settings: Settings) -> PilPipeline:
    names = ("flip", "pad", "num_ops", "cutout")
    return PilPipeline(**{name: settings.views[name] for name in names})


@torch.no_grad()
def _accuracy(network: nn.Module, parts: RunParts, images: ImageSet | None, device: torch.device) -> float:
    if images is None:
        raise UserError("time to accuracy needs validation images, and there are none: give data.num_val above 0")
    right, size = 0, parts.data.eval_batch_size
    for start in range(0, len(images), size):
        rows = np.arange(start, min(start + size, len(images)))
        pixels = parts.data.normalise(torch.from_numpy(images.images.read(rows)).to(device))
        right += int((network(pixels).logits.argmax(dim=1).cpu() == torch.from_numpy(images.labels[rows])).sum())
    return right / len(images)
