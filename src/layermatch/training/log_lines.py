"""What is logged: means of an interval, and what callbacks add to its line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.loggers.logger import Logger
from torch import Tensor

from layermatch.functional import relative_change
from layermatch.metrics import DRIFT
from layermatch.training.meter import IntervalMeter

__all__ = ["LogLines", "by_class"]


class LogLines:
    """Collects the quantities of the steps between two log lines, and writes the lines."""

    def __init__(self) -> None:
        self.meter = IntervalMeter()
        #: The last logged means, by name; what the progress display shows.
        self.latest: dict[str, float] = {}
        #: Values that callbacks want in the next log line.
        self._with_next: dict[str, float] = {}
        self._last_centres: Tensor | None = None

    def start(self, centres: Tensor) -> None:
        """See where the cluster centres start; a resumed run goes on from those of its last log line.

        Args:
            centres: ``(K, D)``, on the device of the run.
        """
        self.meter.move_to(centres.device)
        before = centres.detach().clone() if self._last_centres is None else self._last_centres
        self._last_centres = before.to(centres.device)

    def read_interval(self, centres: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        """Return the means since the last line, with the centres' movement; starts afresh.

        Args:
            centres: ``(K, D)``.
            class_names: The names of the K classes.
        """
        if self._last_centres is not None:
            with torch.no_grad():
                self.meter.add({DRIFT.name: relative_change(self._last_centres, centres)})
        self._last_centres = centres.detach().clone()
        self._forget_what_is_unknown(class_names)
        return self.meter.read_out(class_names)

    def show_unfinished(self, class_names: Sequence[str]) -> None:
        """Show the steps since the last line. They stay in the meter: a resumed run's next line has them too."""
        self._forget_what_is_unknown(class_names)
        self.latest |= self.meter.look(class_names)

    def add_to_next(self, values: dict[str, float]) -> None:
        """Have these values in the next line."""
        self._with_next |= values

    def write(self, values: dict[str, float], *, loggers: Sequence[Logger], step: int) -> None:
        """Write a line. What is not finite has no value, and is left out.

        Args:
            values: The values by name.
            loggers: The loggers that the line is written to.
            step: The optimizer steps made so far.
        """
        values = {name: value for name, value in (values | self._with_next).items() if math.isfinite(value)}
        self._with_next = {}
        self.latest |= values
        for logger in loggers:
            logger.log_metrics(values, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Return the means and the centres since the last line; all ranks must ask."""
        return {"meter": self.meter.state_dict(), "last_centres": self._last_centres}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.meter.load_state_dict(state["meter"])
        self._last_centres = state["last_centres"]

    def _forget_what_is_unknown(self, class_names: Sequence[str]) -> None:
        """Have no value of earlier steps stand beside those of these steps: a ratio of nothing is unknown."""
        for name in self.meter.names(class_names):
            self.latest.pop(name, None)


def by_class(readings: Mapping[str, Tensor], class_names: Sequence[str]) -> dict[str, float]:
    """Return the readings as single values: one that has a component for each class becomes as many.

    Args:
        readings: Scalars or ``(K,)``, by name.
        class_names: The names of the K classes.

    Example:
        >>> by_class({"rate": torch.tensor(0.5), "counts": torch.tensor([3.0, 4.0])}, ["cat", "dog"])
        {'rate': 0.5, 'counts/cat': 3.0, 'counts/dog': 4.0}
    """
    values: dict[str, float] = {}
    for name, reading in readings.items():
        if reading.ndim:
            values |= {f"{name}/{part}": value for part, value in zip(class_names, reading.tolist(), strict=True)}
        else:
            values[name] = reading.item()
    return values
