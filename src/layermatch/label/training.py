"""Training from the page: a run as any other, in a process of its own, which the server may end before."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from layermatch.cli import NO_NAME, explain, explain_no_name, plain
from layermatch.command_line import pasteable, quoted
from layermatch.data.manifest import Row, write_manifest
from layermatch.errors import UserError, check_number
from layermatch.files import replace_text
from layermatch.label.labels import LabelsError
from layermatch.metrics import LOSS_CLASSIFIER, MASK_RATE
from layermatch.processes import birth_of, living
from layermatch.runs.layout import BEST_CHECKPOINT, CHECKPOINTS, LOG, METRICS, checkpoints_in
from layermatch.runs.metrics_file import MetricsFile
from layermatch.runs.reading import UNREADABLE
from layermatch.runs.settings import flatten, stored_settings
from layermatch.runs.state import judge
from layermatch.text import printable

__all__ = ["Training", "check_composes", "newest_checkpoint_of"]

#: The exit status of a run that was asked to stop.
_STOPPED = 75
#: Seconds that a run has to write its checkpoint when it is asked to stop.
_PATIENCE = 120.0
#: Settings of a run where none are given. Every label is learnt from, so that images to validate come from them.
DEFAULTS: dict[str, Any] = {"experiment": "folder", "trainer.max_steps": 2000, "data.val_from": "labelled"}
#: A text that Hydra reads as this text.
_PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z][A-Za-z_.]*", re.IGNORECASE)
#: What a start is called, by its time.
_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?")
#: Bytes at the end of a log that hold its last line.
_TAIL = 8192
#: Metrics that are shown, in words.
_SHOWN = {LOSS_CLASSIFIER.name: "loss of the classifier", MASK_RATE.name: "share of pseudo-labels that count"}


def newest_checkpoint_of(path: Path) -> Path | None:
    """Find the checkpoint that a path means: itself, or of a run directory the best by validation, else the newest.

    The model that is loaded from it says whether it is whole; this only looks at names and times.

    Args:
        path: A file or a run directory.

    Returns:
        The file; None where a folder has none.
    """
    if not path.is_dir():
        return path
    best = path / CHECKPOINTS / BEST_CHECKPOINT
    found = sorted(checkpoints_in(path), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return best if best.is_file() else (found[-1] if found else None)


def check_composes(settings: Mapping[str, Any], *, root: Path) -> None:
    """Refuse settings of which no run can be composed, so that a mistake shows before anything is labelled.

    They are composed and nothing more, which takes a part of a second: a value of no legal kind shows in the run.

    Args:
        settings: Settings of the runs by their names on the command line, beside :data:`DEFAULTS`.
        root: The folder of the pictures.

    Raises:
        UserError: There is no such setting, or no such choice.
    """
    words = Training(root / "labels.runs", root=root, settings=settings).words(root / "labels.runs" / "unused", None)
    try:
        plain(compose("run", overrides=words))
    except (HydraException, OmegaConfBaseException, UserError) as error:
        raise UserError(f"train: {explain(error)}") from error
    except ValueError as error:
        if NO_NAME not in str(error):
            raise
        raise UserError(f"train: {explain_no_name(words)}") from error


@dataclass(frozen=True)
class _Start:
    """A run that was started: where it is, and which process it was."""

    run_dir: Path
    pid: int
    created: str | float

    def process(self) -> psutil.Process | None:
        """Return the process, if it is still there."""
        return living(self.pid, self.created)


class Training:
    """The runs beside a manifest: starts one, says how far it is, stops it.

    Each start has a time as its name: ``<time>.csv`` are the labels that it learns from, ``<time>/`` is its run
    directory, ``<time>.log`` is what it said. A run that a server which is gone has started is taken over.

    Args:
        folder: The folder of the runs, beside the manifest.
        root: The folder of the pictures.
        settings: Settings of each run by their names on the command line, beside :data:`DEFAULTS`.
    """

    def __init__(self, folder: Path, *, root: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.root, self.settings = folder, root, DEFAULTS | dict(settings or {})
        self._lock = threading.RLock()
        self._child: subprocess.Popen[bytes] | None = None
        self._metrics: MetricsFile | None = None
        self._is_stopping = False
        self._left_out = ""
        self._start = self._left_over()
        self._is_awaited = self.is_running

    # ------------------------------------------------------------------------------------------------------- starting

    def start(self, rows: Sequence[Row], *, max_steps: int | None = None, left_out: str = "") -> None:
        """Start a run on the labels as they are now.

        Args:
            rows: The rows of the manifest.
            max_steps: Its optimizer steps; None leaves them to the settings.
            left_out: What is not among the rows, in words, for :meth:`status`.

        Raises:
            LabelsError: One is at it, there are not two classes with labels, or it cannot be started.
        """
        with self._lock:
            if self.is_running:
                raise LabelsError("a training is running: stop it, or wait until it ends")
            if len({row.label for row in rows if row.label and row.split == "train"}) < 2:
                raise LabelsError("training needs labels of two classes: label some pictures first")
            try:
                if max_steps is not None:
                    check_number("steps", max_steps, low=1, high=10**9, integer=True)
                self.folder.mkdir(parents=True, exist_ok=True)
                run_dir = self._new()
                labels = run_dir.with_suffix(".csv")
                write_manifest(labels, rows)
                with run_dir.with_suffix(".log").open("wb") as log:
                    child = subprocess.Popen(  # noqa: S603 -- this package's own module
                        [sys.executable, "-m", "layermatch.run", *self.words(run_dir, max_steps)],
                        stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    )  # fmt: skip
                start = _noted(run_dir, child)
            except UserError as error:
                raise LabelsError(str(error)) from error
            except OSError as error:
                raise LabelsError(f"training cannot be started: {error.strerror or error}") from error
            self._child, self._start, self._metrics, self._is_stopping = child, start, None, False
            self._is_awaited, self._left_out = True, left_out

    def words(self, run_dir: Path, max_steps: int | None) -> list[str]:
        """Return the settings of a run, as words of the command line.

        Args:
            run_dir: The directory of the run; its labels lie beside it.
            max_steps: Its optimizer steps; None leaves them to the settings.
        """
        settings = self.settings if max_steps is None else self.settings | {"trainer.max_steps": max_steps}
        paths = {"data.manifest": run_dir.with_suffix(".csv"), "data.root": self.root, "run_dir": run_dir}
        where = [f"{name}={quoted(str(path))}" for name, path in paths.items()]
        return [*(f"{name}={_value(value)}" for name, value in settings.items()), "data=manifest", *where]

    def command(self) -> str:
        """Return the command that the last start gave, for people; empty where there is none."""
        start = self._start
        if start is None:
            return ""
        words = self.words(start.run_dir, None)
        return " ".join(["python -m layermatch.run", *map(pasteable, words)])

    def _new(self) -> Path:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        names = [stamp, *(f"{stamp}-{number}" for number in range(2, 100))]
        return next(self.folder / name for name in names if not any(self.folder.glob(f"{name}*")))

    # -------------------------------------------------------------------------------------------------------- stopping

    def stop(self) -> None:
        """Ask the run to stop: it writes a checkpoint first. It is ended where it does not within two minutes."""
        with self._lock:
            process = None if self._start is None else self._start.process()
            if process is None:
                return
            is_first, self._is_stopping = not self._is_stopping, True
            with suppress(psutil.Error):
                process.terminate()
        if is_first:
            # Popen must wait for its own child: whoever else does takes its exit status away.
            threading.Thread(target=_end, args=(self._child or process,), daemon=True).start()

    # ---------------------------------------------------------------------------------------------------------- looking

    @property
    def is_running(self) -> bool:
        """Whether the last start is at it."""
        child, start = self._child, self._start
        if child is not None:
            return child.poll() is None
        return start is not None and start.process() is not None

    def has_ended(self) -> bool:
        """Return whether a run has ended since this was last asked."""
        with self._lock:
            if not self._is_awaited or self.is_running:
                return False
            self._is_awaited = False
            return True

    def status(self) -> dict[str, Any]:
        """Return what the page shows of the last start; ``kind`` is ``none``, ``running``, or how it ended."""
        with self._lock:
            start = self._start
            if start is None:
                return {"kind": "none"}
            kind = self._kind(start)
            step, shown = self._progress(start.run_dir)
            limit = flatten(stored_settings(start.run_dir) or {}).get("trainer.max_steps")
            return {
                "kind": kind,
                "name": start.run_dir.name,
                "is_stopping": self._is_stopping and kind == "running",
                "step": step,
                "max_steps": limit if isinstance(limit, int) else None,
                "shown": shown,
                "left_out": self._left_out,
                "said": "" if kind in {"running", "finished"} else _last_line(start.run_dir),
            }

    def checkpoint(self) -> Path | None:
        """Return the newest checkpoint of the newest start that has one."""
        for run_dir in self._run_dirs():
            found = newest_checkpoint_of(run_dir)
            if found is not None:
                return found
        return None

    def _kind(self, start: _Start) -> str:
        if self.is_running:
            return "running"
        if self._child is not None:
            return {0: "finished", _STOPPED: "stopped"}.get(self._child.returncode, "failed")
        return "finished" if judge(start.run_dir).kind == "finished" else "stopped"

    def _progress(self, run_dir: Path) -> tuple[int, dict[str, float]]:
        """Return the step, and the last value of each metric that is shown, in words."""
        path = run_dir / METRICS
        if self._metrics is None or self._metrics.path != path:
            self._metrics = MetricsFile(path)
        with suppress(*UNREADABLE):
            self._metrics.poll()
        curves = self._metrics.curves
        values = {_SHOWN[name]: curves[name].values[-1] for name in _SHOWN if name in curves and curves[name].values}
        return self._metrics.last_step, {
            name: round(value, 4) for name, value in values.items() if math.isfinite(value)
        }

    def _run_dirs(self) -> list[Path]:
        """Return the run directories, the newest first."""
        with suppress(OSError):
            return sorted(
                (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()), reverse=True
            )
        return []

    def _left_over(self) -> _Start | None:
        """Return the newest start of an earlier server, whether it is still at it or not."""
        with suppress(OSError):
            for path in sorted(self.folder.glob("*.json"), reverse=True):
                with suppress(OSError, ValueError, LookupError, TypeError):
                    said = json.loads(path.read_text(encoding="utf-8"))
                    created = said["created"]
                    created = created if isinstance(created, str) else float(created)  # of an earlier version
                    return _Start(path.with_suffix(""), int(said["pid"]), created)
        return None


def _noted(run_dir: Path, child: subprocess.Popen[bytes]) -> _Start:
    """Write down which process a run is, for a later server; where that fails, nothing is left running."""
    start = _Start(run_dir, child.pid, birth_of(child.pid))
    note = json.dumps({"pid": start.pid, "created": start.created})
    try:
        replace_text(run_dir.with_suffix(".json"), f"{note}\n")
    except OSError:
        child.kill()
        child.wait()
        raise
    return start


def _value(value: object) -> str:
    """Return a value as Hydra reads it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else quoted(value)
    return json.dumps(value)


def _end(process: subprocess.Popen[bytes] | psutil.Process) -> None:
    """Kill a process that does not end by itself."""
    try:
        process.wait(_PATIENCE)
    except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
        with suppress(psutil.Error):
            process.kill()


def _last_line(run_dir: Path) -> str:
    """Return the last line that a run said, which is why it ended where it failed."""
    for path in (run_dir.with_suffix(".log"), run_dir / LOG):
        with suppress(OSError), path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
            if lines:
                return printable(lines[-1].strip())
    return ""
