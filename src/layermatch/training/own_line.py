"""One log line for an evaluation, where Lightning would write a second one."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

__all__ = ["OwnLine"]


class OwnLine(Logger):
    """Takes the line that Lightning writes of an evaluation, and gives the trainer its own loggers back.

    ``trainer.test`` and ``trainer.validate`` return, and print, what is logged with ``logger=True`` and nothing else.
    Lightning then writes these values to the loggers, at a step that counts batches and with a column ``epoch``, while
    the module has written them already at the optimizer step. So this stands in the loggers' place for that one call.

    Args:
        trainer: The trainer, whose loggers are put aside.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self._loggers = trainer.loggers

    @classmethod
    def stand_in(cls, trainer: Trainer) -> None:
        """Have the next line that Lightning writes go nowhere; nothing where the trainer has no loggers."""
        if trainer.loggers:
            trainer.loggers = [cls(trainer)]

    @property
    def name(self) -> str:
        """The name that Lightning asks for."""
        return type(self).__name__

    @property
    def version(self) -> None:
        """There is none."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: ARG002 -- Lightning's
        """Drop the line, and leave."""
        self._trainer.loggers = self._loggers

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log nothing here."""
