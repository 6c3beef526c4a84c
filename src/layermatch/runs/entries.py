"""Many run directories at once: what each of them is, in a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layermatch.catalogue import Metric
from layermatch.metrics import TEST_ACCURACY_EMA, VAL_ACCURACY_EMA
from layermatch.runs.layout import METRICS, RESULTS, checkpoints_in, step_of
from layermatch.runs.metrics_file import MetricsFile
from layermatch.runs.reading import UNREADABLE, finite_number, read_results
from layermatch.runs.settings import leaves, stored_settings
from layermatch.runs.state import RunState, judge
from layermatch.text import printable

__all__ = ["FIGURES", "Entry", "names_of", "read_entry"]

#: What is known of a run beside its settings, by the short names that conditions and orders use.
FIGURES = ("path", "state", "steps", "val", "test", "seconds")


@dataclass(frozen=True)
class Entry:
    """A run directory, in a line.

    Args:
        path: The path of the directory.
        state: What the run is doing.
        settings: The value of each setting as text, by dotted name; empty where there is no configuration.
        num_labels: The number of labelled images, as text; empty where it is not known.
        steps: The optimizer steps that were made, as far as files tell.
        val: The validation accuracy of the EMA weights in [0, 1]: of a finished run the one of its results, otherwise
            the last one that was measured; None where there is none.
        test: The test accuracy of the EMA weights in [0, 1]; None where there is none.
        seconds: How long it took; None for a run that is not finished.
    """

    path: Path
    state: RunState
    settings: Mapping[str, str] = field(default_factory=dict)
    num_labels: str = ""
    steps: int = 0
    val: float | None = None
    test: float | None = None
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end and does not go on."""
        return self.state.kind == "finished"

    @property
    def max_steps(self) -> int | None:
        """The number of steps that the run was given; None where it is not known."""
        text = self.settings.get("trainer.max_steps", "")
        return int(text) if text.isdecimal() else None

    def value(self, name: str) -> str | None:
        """Return what a condition compares with, as text.

        Args:
            name: One of :data:`FIGURES`, or the full name of a setting.

        Returns:
            None where the run has no such value.
        """
        if name not in FIGURES:
            return self.settings.get(name)
        if name == "path":
            return printable(self.path)
        if name == "state":
            return self.state.kind
        figure = getattr(self, name)
        return None if figure is None else str(figure)

    def figure(self, name: str) -> float | None:
        """Return the same as a number; None where it is none.

        Args:
            name: One of :data:`FIGURES`, or the full name of a setting.
        """
        try:
            number = float(self.value(name) or "")
        except ValueError:
            return None
        return number if math.isfinite(number) else None


def read_entry(path: Path) -> Entry:
    """Read what a line needs; what is missing or broken is left empty, never an error.

    Args:
        path: The path of the run directory.
    """
    settings = stored_settings(path) or {}
    results = _results(path)
    told = finite_number(results.get("steps"))
    curves = MetricsFile(path / METRICS) if told is not None else _curves(path)
    texts = leaves(settings)
    return Entry(
        path,
        judge(path),
        settings=texts,
        num_labels=str(results.get("num_labels") or texts.get("data.num_labels", "")),
        steps=_steps_made(path, curves) if told is None else int(told),
        val=_accuracy(results, VAL_ACCURACY_EMA) if results else _last(curves, VAL_ACCURACY_EMA),
        test=_accuracy(results, TEST_ACCURACY_EMA),
        seconds=finite_number(results.get("seconds")),
    )


def _results(path: Path) -> dict[str, Any]:
    try:
        return read_results(path / RESULTS)
    except UNREADABLE:
        return {}


def _curves(path: Path) -> MetricsFile:
    file = MetricsFile(path / METRICS)
    with suppress(*UNREADABLE):
        file.poll()
    return file


def _accuracy(results: Mapping[str, Any], metric: Metric) -> float | None:
    return finite_number(metric.read(results)) if results else None


def _last(curves: MetricsFile, metric: Metric) -> float | None:
    curve = curves.curves.get(metric.name)
    return curve.values[-1] if curve else None


def _steps_made(path: Path, curves: MetricsFile) -> int:
    """Return the step of the newest checkpoint, or of the last log line where that is later."""
    saved = (step_of(checkpoint.name) or 0 for checkpoint in checkpoints_in(path))
    return max([*saved, curves.last_step])


def names_of(entries: Iterable[Entry]) -> list[str]:
    """Return every name that a condition on these runs can have, figures first.

    Args:
        entries: The runs.
    """
    return list(dict.fromkeys([*FIGURES, *(name for entry in entries for name in entry.settings)]))
