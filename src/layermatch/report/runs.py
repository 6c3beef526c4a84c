"""What one run directory holds, and what is wrong with it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.catalogue import Metric, loads
from layermatch.runs import layout
from layermatch.runs.identity import Draw, draw_of, fingerprint, setting_of
from layermatch.runs.metrics_file import Curve, MetricsFile
from layermatch.runs.plan import read_plan
from layermatch.runs.reading import UNREADABLE, finite_number, read_results, reason
from layermatch.runs.settings import leaves, read_settings
from layermatch.runs.state import RunState, judge
from layermatch.text import printable

__all__ = ["Mistake", "Run", "read_run"]

#: More bytes than a picture of a run has; a page of larger ones would be no use on a phone.
PICTURE_LIMIT = 8 << 20

#: Most confident mistakes of a run that are kept.
MISTAKES = 200

#: The logger with which a run has no metrics.csv.
NO_LOGGER = "layermatch.loggers.none"

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Mistake:
    """A test image that was given another class than its own.

    Args:
        index: The index of the image in the test set.
        label: The class of the image.
        prediction: The class that it was given.
        confidence: The confidence of the prediction, in [0, 1].
        path: The path of the image's file; empty where it is none.
    """

    index: int
    label: int
    prediction: int
    confidence: float
    path: str = ""


@dataclass
class Run:
    """A run directory, as far as it can be read.

    Args:
        path: The path of the directory.
        state: What the run is doing.
        problems: A line for each thing that is wrong; empty for a whole, finished run.
        settings: The value of everything that tells this run from one that is not its repetition, by dotted name; empty
            where there is no configuration.
        shown_settings: The same with every setting, for people.
        fingerprint: The fingerprint of the setting; empty where there is no configuration.
        draw: Which repetition of its setting it is; None where there is no seed.
        results: The content of ``results.json``; empty without.
        curves: The values of each metric.
        own_metrics: The metrics that the run's method adds to the catalogue.
        plan: What the run said that it would do: a text for each name.
        labelled: The indices of the labelled images; empty where unknown.
        pool: The number and digest of the names of all training files; empty where they are no files, or unknown.
        classes: The names of the classes; empty where unknown.
        confusion: The test counts ``(K, K)``, rows are true classes; None where unknown.
        mistakes: The mistakes, the most confident ones first.
        picture: The PNG file of mistakes; None where there is none.
    """

    path: Path
    state: RunState
    problems: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    shown_settings: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    draw: Draw | None = None
    results: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    own_metrics: tuple[Metric, ...] = ()
    plan: dict[str, str] = field(default_factory=dict)
    labelled: frozenset[int] = frozenset()
    pool: str = ""
    classes: tuple[str, ...] = ()
    confusion: NDArray[np.float64] | None = None
    mistakes: tuple[Mistake, ...] = ()
    picture: bytes | None = None

    @property
    def name(self) -> str:
        """The directory as the user gave it."""
        return printable(self.path)

    @property
    def seed(self) -> int | None:
        """The seed of the run; None where there is none."""
        return None if self.draw is None else self.draw.seed

    @property
    def is_finished(self) -> bool:
        """Whether its figures can be compared: it ended, and it is known with what settings."""
        is_known = bool(self.settings) and self.seed is not None
        ended = self.state.kind == "finished" and self.results.get("status", "finished") == "finished"
        return is_known and ended and bool(self.results)

    @property
    def last_step(self) -> int:
        """The last step in ``metrics.csv``; 0 without."""
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)

    def figure(self, *path: str) -> float | None:
        """Return a number of ``results.json``.

        Args:
            *path: The keys, from the outermost to the number's.

        Returns:
            None where there is no finite number.
        """
        value: Any = self.results
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return finite_number(value)


def read_run(path: Path) -> Run:
    """Read a run directory. Whatever is missing or broken is a line in ``problems``, never an error.

    Args:
        path: The path of the directory.
    """
    run = Run(path, judge(path))
    if run.state.kind == "empty":
        run.problems.append("there is nothing of a run in it")
        return run
    _Reader(run).read()
    return run


class _Reader:
    def __init__(self, run: Run) -> None:
        self.run = run

    def read(self) -> None:
        run = self.run
        self._try(layout.CONFIG, self._read_settings, is_required=True)
        self._try(layout.RESULTS, self._read_results)
        if run.figure("steps") is None and run.results:
            run.problems.append("results.json does not say how many steps were made")
        is_logged = run.shown_settings.get("logger._target_") != NO_LOGGER
        self._try(layout.METRICS, self._read_metrics, is_required=is_logged)
        self._try(layout.OWN_METRICS, self._read_own_metrics)
        self._try(layout.SPLIT, self._read_split)
        self._try(layout.PLAN, self._read_plan)
        self._try(layout.PREDICTIONS, self._read_predictions)
        self._try(f"{layout.FIGURES}/{layout.MISTAKES}", self._read_picture)
        self._judge()

    def _try(self, name: str, read: Callable[[Path], None], *, is_required: bool = False) -> None:
        path = self.run.path / name
        if not path.is_file():
            if is_required:
                self.run.problems.append(f"{name} is missing")
            return
        try:
            read(path)
        except UNREADABLE as error:
            self.run.problems.append(f"{name} cannot be read: {reason(error)}")

    def _read_settings(self, path: Path) -> None:
        settings = read_settings(path)
        run = self.run
        run.draw = draw_of(settings)
        if run.draw is None:
            run.problems.append("config.yaml gives no seed")
        run.shown_settings = leaves(settings)
        run.settings, run.fingerprint = leaves(setting_of(settings)), fingerprint(settings)

    def _read_results(self, path: Path) -> None:
        results = read_results(path)
        self.run.results = results
        classes, confusion = results.get("classes"), results.get("confusion")
        if isinstance(classes, list):
            self.run.classes = tuple(printable(name) for name in classes)
        if confusion is not None:
            self.run.confusion = _square(confusion)
        if self.run.confusion is not None and len(self.run.classes) != len(self.run.confusion):
            self.run.classes = tuple(str(number) for number in range(len(self.run.confusion)))

    def _read_metrics(self, path: Path) -> None:
        run, file = self.run, MetricsFile(path)
        file.poll()
        run.curves = file.curves
        if not run.curves:
            run.problems.append("metrics.csv has no line")
        if file.bad_lines:
            run.problems.append(f"metrics.csv: {file.bad_lines} broken line(s) left out")
        if file.has_open_line and run.state.kind != "running":
            run.problems.append("metrics.csv ends in the middle of a line, which is left out")
        for name, curve in run.curves.items():
            bad = [s for s, value in zip(curve.steps, curve.values, strict=True) if not math.isfinite(value)]
            if bad:
                run.problems.append(f"metrics.csv: {printable(name)} is no finite number from step {bad[0]} on")

    def _read_own_metrics(self, path: Path) -> None:
        self.run.own_metrics = loads(path.read_text(encoding="utf-8"))

    def _read_split(self, path: Path) -> None:
        split = json.loads(path.read_text(encoding="utf-8"))
        labelled = split.get("labelled") if isinstance(split, dict) else None
        if not isinstance(labelled, list) or not all(isinstance(index, int) for index in labelled):
            raise ValueError("it lists no labelled images")
        self.run.labelled = frozenset(labelled)
        self.run.pool = str(split.get("pool", ""))

    def _read_plan(self, path: Path) -> None:
        self.run.plan = read_plan(path)

    def _read_predictions(self, path: Path) -> None:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            mistakes = [mistake for row in csv.DictReader(file) if (mistake := _mistake(row)) is not None]
        mistakes.sort(key=lambda mistake: -mistake.confidence)
        self.run.mistakes = tuple(mistakes[:MISTAKES])

    def _read_picture(self, path: Path) -> None:
        with path.open("rb") as file:
            picture = file.read(PICTURE_LIMIT + 1)
        if not picture.startswith(PNG) or not picture.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
            raise ValueError("it is no whole PNG picture")
        if len(picture) > PICTURE_LIMIT:
            raise ValueError(f"it is larger than {PICTURE_LIMIT >> 20} MiB")
        self.run.picture = picture

    def _judge(self) -> None:
        run, state = self.run, self.run.state
        end = run.shown_settings.get("trainer.max_steps", "?")
        steps = run.figure("steps")
        if state.kind in {"running", "stopped"}:
            said = "still running" if state.kind == "running" else "stopped before its end"
            run.problems.insert(0, f"{said}: at step {run.last_step} of {end}")
        elif steps is not None and end.isdecimal() and steps < int(end):
            run.state = RunState("stopped", state.quiet)
            run.problems.insert(0, f"results.json is of step {steps:.0f}, but the run went on, and not up to {end} yet")
        elif steps is not None and run.curves and steps - run.last_step >= self._log_every():
            run.problems.append(f"metrics.csv ends at step {run.last_step}, the run at {steps:.0f}: no curves of it")
            run.curves = {}

    def _log_every(self) -> int:
        """Return the steps between two log lines: fewer than these may follow the last line of a whole run."""
        given = self.run.shown_settings.get("trainer.log_every", "1")
        return int(given) if given.isdecimal() else 1


def _mistake(row: Mapping[str, str | None]) -> Mistake | None:
    """Read a row's mistake; None for a right prediction, an unlabelled image (label below 0), and a broken line."""
    try:
        index, label, prediction = (int(row[key] or "") for key in ("index", "label", "prediction"))
        confidence = float(row["confidence"] or "")
    except (KeyError, ValueError):
        return None
    wrong = 0 <= label != prediction >= 0 and 0 <= confidence <= 1
    return Mistake(index, label, prediction, confidence, row.get("path") or "") if wrong else None


def _square(confusion: object) -> NDArray[np.float64]:
    rows: Sequence[Any] = confusion if isinstance(confusion, list) else []
    good = bool(rows) and all(isinstance(row, list) and len(row) == len(rows) for row in rows)
    counts = [finite_number(count) for row in rows for count in row] if good else []
    if not counts or any(count is None or count < 0 for count in counts):
        raise ValueError("confusion is no square table of counts")
    return np.array(counts, dtype=np.float64).reshape(len(rows), len(rows))
