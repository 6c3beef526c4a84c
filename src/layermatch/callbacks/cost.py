"""The time that each part of a step takes, and the memory that a run takes."""

from __future__ import annotations

import time
from functools import cache
from typing import Any, cast

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

from layermatch.metrics import MEMORY_USE, PHASE_TIME
from layermatch.training import SemiSupervisedModule

__all__ = ["PHASES", "CostMonitor", "StepClock", "process_memory"]

PHASES = ("data", "augment", "network", "other")

#: How the names end that Lightning gives its profiler, and the phase that starts with each.
ACTIONS = {"train_dataloader_next": "data", ".batch_to_device": "augment", ".training_step": "network"}

GIB = 2**30

#: Host seconds, or a ``torch.cuda.Event`` in the stream of the work.
Moment = Any


class CostMonitor(Callback):
    """Logs seconds per optimizer step, ``time/{data,augment,network,other}``, and GiB, ``memory/{process,device}``.

    Means over the interval between two log lines, of this process (rank 0's are written):

    - ``data``: waiting for the loader;
    - ``augment``: bringing the batch to the device and making its views (``on_after_batch_transfer``);
    - ``network``: ``training_step``: forward, backward, optimizer, averages, and writing the log line;
    - ``other``: the rest: evaluation, checkpoints, figures, Lightning's own work.

    The four add up to the time that passed. Without a GPU it is the time of a wall clock. On CUDA the borders are
    events in the stream of the work, so that a phase has the time at which the GPU got through it, not that at which it
    was launched: a loader that the GPU need not wait for takes 0 s. No step waits for the clock; the last steps of an
    interval may count in the next.

    ``memory/process`` is what the process has in memory (resident set), without the loader's workers; ``memory/device``
    what PyTorch holds of the GPU, in use or kept for reuse, and absent without one.

    NOTE: Lightning has no callback hook at the border of loading and copying, so the clock is its profiler. Where the
    Trainer has another profiler than none, that one stays, and ``time/*`` is not logged.
    """

    def __init__(self) -> None:
        self._clock: StepClock | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the clock."""
        if stage == "fit" and isinstance(getattr(trainer, "profiler", None), PassThroughProfiler):
            self._clock = StepClock(use_events=trainer.strategy.root_device.type == "cuda")
            trainer.profiler = self._clock  # type: ignore[attr-defined]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Add to the log line that this step will write."""
        algorithm = cast("SemiSupervisedModule", pl_module)
        if self._clock is not None:
            self._clock.begin()
        is_step = (batch_idx + 1) % algorithm.accumulate == 0
        if is_step and (trainer.global_step + 1) % algorithm.log_every == 0:
            times = {} if self._clock is None else self._clock.read_out()
            seconds = {PHASE_TIME.of(phase): seconds * algorithm.accumulate for phase, seconds in times.items()}
            algorithm.log_with_next(seconds | _memory(algorithm.device))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the clock away."""
        if self._clock is not None:
            self._clock = None
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]


class StepClock(Profiler):
    """Divides the time since the first training batch among :data:`PHASES`.

    Args:
        use_events: Whether the borders are events of the current CUDA stream; see :class:`CostMonitor`.

    Example:
        >>> clock = StepClock()
        >>> clock.begin()
        >>> with clock.profile("[Strategy]SingleDeviceStrategy.training_step"):
        ...     time.sleep(0.01)
        >>> seconds = clock.read_out()
        >>> list(seconds), seconds["network"] >= 0.01
        (['data', 'augment', 'network', 'other'], True)
    """

    def __init__(self, *, use_events: bool = False) -> None:
        super().__init__()
        self.use_events = use_events
        #: The phases with the moment at which each starts; the one before ends there.
        self._borders: list[tuple[str, Moment]] = []
        self._has_batch = False

    def begin(self) -> None:
        """Start at the first training batch, that is after the loader's start; later it does nothing."""
        if not self._borders:
            self._enter("other")

    def start(self, action_name: str) -> None:
        """Lightning enters a part of its work."""
        phase = self._phase(action_name)
        if phase is not None:
            self._enter(phase)

    def stop(self, action_name: str) -> None:
        """Lightning leaves it."""
        phase = self._phase(action_name)
        if phase is not None:
            self._enter("other")
            self._has_batch = phase == "data"

    def _phase(self, action_name: str) -> str | None:
        if not self._borders:
            return None
        phase = _phase_of(action_name)
        # Evaluation brings batches to the device too: only the one that the training loader has given is meant.
        return None if phase == "augment" and not self._has_batch else phase

    def _enter(self, phase: str) -> None:
        moment: Moment = time.perf_counter()
        if self.use_events:
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
        self._borders.append((phase, moment))

    def read_out(self) -> dict[str, float]:
        """Return the mean seconds of each phase per batch since the last call; empty where no batch has passed."""
        seconds = dict.fromkeys(PHASES, 0.0)
        batches = passed = 0
        for (phase, start), (_, end) in zip(self._borders, self._borders[1:], strict=False):
            if not _has_passed(end):
                break
            seconds[phase] += _seconds(start, end)
            batches += phase == "network"
            passed += 1
        self._borders = self._borders[passed:]
        return {phase: total / batches for phase, total in seconds.items()} if batches else {}


def _has_passed(moment: Moment) -> bool:
    return bool(moment.query()) if isinstance(moment, torch.cuda.Event) else True  # type: ignore[no-untyped-call]


def _seconds(start: Moment, end: Moment) -> float:
    return float(start.elapsed_time(end) / 1000 if isinstance(start, torch.cuda.Event) else end - start)


def _memory(device: torch.device) -> dict[str, float]:
    values = {MEMORY_USE.of("process"): process_memory() / GIB}
    if device.type == "cuda":
        values[MEMORY_USE.of("device")] = torch.cuda.memory_reserved(device) / GIB
    return values


def process_memory() -> float:
    """Return the bytes that this process has in memory now."""
    return float(psutil.Process().memory_info().rss)


@cache
def _phase_of(action_name: str) -> str | None:
    """Return the phase that begins with a part of Lightning's work, of which a step has a hundred, each named alike."""
    return next((phase for ending, phase in ACTIONS.items() if action_name.endswith(ending)), None)
