"""What a run wrote since the last look."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layermatch.catalogue import Catalogue, loads
from layermatch.metrics import CATALOGUE, PHASE_TIME
from layermatch.runs import layout
from layermatch.runs.metrics_file import Curve, MetricsFile
from layermatch.runs.reading import UNREADABLE, finite_number, read_results, reason
from layermatch.runs.settings import leaves, read_settings
from layermatch.runs.state import RunState, judge
from layermatch.text import printable

__all__ = ["Pace", "Snapshot", "Watcher"]

#: So many bytes at the end of a log hold the lines that are shown.
LOG_TAIL = 16_384

#: Changes of the step over which the speed is measured.
PACE_OVER = 20


class Pace:
    """Steps per second, from when the step was seen to change.

    Example:
        >>> pace = Pace()
        >>> for now, step in ((0.0, 10), (1.0, 10), (2.0, 20), (4.0, 30)):
        ...     pace.see(step, now=now)
        >>> pace.speed
        5.0
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=PACE_OVER)
        self._is_change = False

    def see(self, step: int, *, now: float) -> None:
        """Take note of the step.

        Args:
            step: The step that the run is at.
            now: The time in seconds, of a clock that does not jump.
        """
        if self._seen and step < self._seen[-1][1]:
            self._seen.clear()  # resumed from an earlier step
            self._is_change = False
        if self._seen and step == self._seen[-1][1]:
            return
        if not self._is_change and self._seen:
            # The first step was there before we looked: when it was made is not known.
            self._seen.clear()
            self._is_change = True
        self._seen.append((now, step))

    @property
    def speed(self) -> float | None:
        """The steps per second; None before two changes."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else None


@dataclass
class Snapshot:
    """What is known of a run at one moment.

    Args:
        run_dir: The directory of the run.
        state: What the run is doing.
        settings: The value of each setting by dotted name; empty where there are none.
        step: The step that the run is at.
        max_steps: The step that the run ends at; None where unknown.
        speed: The steps per second; None where unknown.
        seconds: The seconds that the whole run took; None before its end.
        curves: The values of each metric.
        catalogue: The catalogue that says what the metrics are.
        log: The last lines of ``run.log``.
        problems: A line for each file that cannot be read.
    """

    run_dir: Path
    state: RunState
    settings: Mapping[str, str] = field(default_factory=dict)
    step: int = 0
    max_steps: int | None = None
    speed: float | None = None
    seconds: float | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)
    catalogue: Catalogue = CATALOGUE
    log: Sequence[str] = ()
    problems: Sequence[str] = ()


class Watcher:
    """Reads what a run wrote since the last look.

    Args:
        run_dir: The directory of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._metrics = MetricsFile(run_dir / layout.METRICS)
        self._pace = Pace()
        self._settings: dict[str, str] = {}
        self._results: dict[str, Any] = {}
        self._times: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._catalogue = CATALOGUE

    def look(self) -> Snapshot:
        """Read what is new."""
        state = judge(self.run_dir)
        self._problems = {}
        self._read(layout.CONFIG, self._read_settings)
        self._results = {}
        self._read(layout.RESULTS, self._read_results)
        self._catalogue = CATALOGUE
        self._read(layout.OWN_METRICS, self._read_own_metrics)
        self._read(layout.METRICS, lambda _: self._metrics.poll())
        step = self._metrics.last_step
        if step:
            self._pace.see(step, now=time.monotonic())
        finished = state.kind == "finished"
        max_steps = self._settings.get("trainer.max_steps", "")
        return Snapshot(
            run_dir=self.run_dir,
            state=state,
            settings=self._settings,
            step=step,
            max_steps=int(max_steps) if max_steps.isdecimal() else None,
            speed=self._speed(step, is_finished=finished),
            seconds=self._seconds() if finished else None,
            curves=self._metrics.curves,
            catalogue=self._catalogue,
            log=self._log(),
            problems=[f"{name} cannot be read: {error}" for name, error in self._problems.items()],
        )

    def _read(self, name: str, read: Callable[[Path], object]) -> None:
        path = self.run_dir / name
        if path.is_file():
            try:
                read(path)
            except FileNotFoundError:  # a resumed run just took it away
                return
            except UNREADABLE as error:
                self._problems[name] = reason(error)

    def _read_settings(self, path: Path) -> None:
        changed = path.stat().st_mtime
        if self._times.get(path.name) != changed:
            self._settings = leaves(read_settings(path))
            self._times[path.name] = changed

    def _read_results(self, path: Path) -> None:
        self._results = read_results(path)

    def _read_own_metrics(self, path: Path) -> None:
        self._catalogue = CATALOGUE.plus(loads(path.read_text(encoding="utf-8")))

    def _speed(self, step: int, *, is_finished: bool) -> float | None:
        """Give the speed of the whole run at its end; else as seen here; else as the run measured its last steps."""
        seconds = self._seconds()
        if is_finished:
            return step / seconds if seconds else None
        if self._pace.speed is not None:
            return self._pace.speed
        curves = self._metrics.curves
        parts = [curve.values[-1] for name, curve in curves.items() if PHASE_TIME.part_of(name) is not None]
        total = sum(parts)
        return 1 / total if math.isfinite(total) and total > 0 else None

    def _seconds(self) -> float | None:
        seconds = finite_number(self._results.get("seconds"))
        return seconds if seconds is not None and seconds >= 0 else None

    def _log(self) -> list[str]:
        with suppress(OSError), (self.run_dir / layout.LOG).open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").split("\n")
            return [printable(line) for line in lines if line.strip()]
        return []
