"""Progress of a run: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from layermatch.console import Reporter
from layermatch.metrics import CATALOGUE, own_metrics

__all__ = ["ProgressDisplay"]


class ProgressDisplay(Callback):
    """Step, time left, the loss of each layer group, mask rate, and accuracies.

    ``right`` is the share of the accepted pseudo-labels that are, where the data set knows; ``val`` and ``ema`` are the
    validation accuracies of live and averaged weights.

    A plain line is written after every evaluation, and every ``line_every`` seconds between them.

    Args:
        reporter: The reporter that the bar and the lines are written to.
        line_every: The seconds between two lines, above 0.
    """

    def __init__(self, reporter: Reporter, *, line_every: float = 20.0) -> None:
        self.reporter = reporter
        self.line_every = line_every
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started = self._last_line = 0.0
        self._first_step = 0
        self._catalogue = CATALOGUE

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and the bar."""
        self._started = self._last_line = time.monotonic()
        self._first_step = trainer.global_step
        self._catalogue = CATALOGUE.plus(own_metrics(pl_module))
        if self.reporter.is_interactive:
            columns = (
                MofNCompleteColumn(),
                BarColumn(bar_width=8),
                TimeRemainingColumn(compact=True),
            )
            values = TextColumn("{task.fields[values]}")
            self._bar = Progress(*columns, values, console=self.reporter.terminal, transient=True)
            self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, values="")
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Redraw the bar, or write a line when it is time."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, values=self._values(pl_module))
        elif time.monotonic() - self._last_line >= self.line_every:
            self._write_line(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line with the new accuracies."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write_line(trainer, pl_module)

    def _write_line(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_line = time.monotonic()
        done = trainer.global_step - self._first_step
        left = (trainer.max_steps - trainer.global_step) * (self._last_line - self._started) / max(done, 1)
        values = self._values(pl_module) or _nothing_yet(trainer, pl_module)
        line = f"step {trainer.global_step}/{trainer.max_steps}  ETA {_short(round(left))}  {values}".rstrip()
        if self._bar is None:
            self.reporter.show(line)
        else:
            self.reporter.log(line)

    def _values(self, module: LightningModule) -> str:
        latest: dict[str, float] = getattr(module, "latest", {})
        shown = (metric for metric in self._catalogue.metrics if metric.short and metric.name in latest)
        return " ".join(f"{metric.short} {metric.kind.brief(latest[metric.name])}" for metric in shown)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar away, so that the error is readable."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _nothing_yet(trainer: Trainer, module: LightningModule) -> str:
    """Return why a line has no values."""
    every = getattr(module, "log_every", None)
    if every is None:
        return ""
    first = trainer.global_step // every * every + every
    if first > trainer.max_steps:
        return f"no values: one log line every {every} steps (trainer.log_every)"
    return f"values from step {first} on"


def _short(seconds: int) -> str:
    """Write a time as ``0:01:23``, and with days as ``5d 3h``."""
    days, rest = divmod(seconds, 24 * 3600)
    hours, rest = divmod(rest, 3600)
    return f"{days}d {hours}h" if days else f"{hours}:{rest // 60:02}:{rest % 60:02}"
