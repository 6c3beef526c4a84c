"""What lies where in a run directory."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from layermatch.files import unfinished_in

__all__ = [
    "BEST_CHECKPOINT",
    "CHECKPOINTS",
    "CLAIMS",
    "CONFIG",
    "CONFUSION",
    "FIGURES",
    "LOCK",
    "LOG",
    "METRICS",
    "MISTAKES",
    "OUTPUTS",
    "OWN_METRICS",
    "PLAN",
    "PREDICTIONS",
    "RESULTS",
    "SPLIT",
    "STEP_CHECKPOINTS",
    "VIEWS",
    "WANDB",
    "checkpoint_name",
    "checkpoints_in",
    "earlier_config_name",
    "find_runs",
    "is_checkpoint_of",
    "outputs_in",
    "run_dir_of",
    "step_of",
    "unfinished_checkpoints_in",
    "unfinished_outputs_in",
]

#: The settings, with every interpolation resolved.
CONFIG = "config.yaml"

#: The images that are labelled, and those that are held out.
SPLIT = "split.json"

#: What the run said that it would do.
PLAN = "plan.json"

#: What it told its user.
LOG = "run.log"

#: A row for each log line.
METRICS = "metrics.csv"

#: What its method logs beside the catalogue; there is none where it logs nothing of its own.
OWN_METRICS = "metrics.json"

#: What the run found; it is there once the run is finished.
RESULTS = "results.json"

#: What the weights make of every test image.
PREDICTIONS = "predictions.csv"

#: Folders.
CHECKPOINTS, FIGURES = "checkpoints", "figures"

#: Pictures in :data:`FIGURES` beside the curves, which are named by their panels: augmented images, the most confident
#: mistakes, and which class is taken for which.
VIEWS, MISTAKES, CONFUSION = "views.png", "mistakes.png", "confusion.png"

#: The folder of what W&B has yet to send; W&B itself names it so.
WANDB = "wandb"

#: The lock that is held while a run uses its directory; the system frees it when the process ends, however it ends.
LOCK = ".lock"

#: The folder beside the jobs of a sweep that says which process has which, and how each ended.
CLAIMS = ".claims"

#: What a run writes into its directory; none of it may be there before a new run.
OUTPUTS = (CONFIG, SPLIT, PLAN, LOG, METRICS, OWN_METRICS, RESULTS, PREDICTIONS, CHECKPOINTS, FIGURES)

#: A folder with any of these is a run's.
MARKS = (CONFIG, RESULTS, METRICS, SPLIT, LOG)

#: The ending of every checkpoint.
_CKPT = ".ckpt"

#: The checkpoint of the best evaluation, and a pattern of those of the steps.
BEST_CHECKPOINT, STEP_CHECKPOINTS = f"best_val{_CKPT}", f"step-*{_CKPT}"

_CHECKPOINT = re.compile(rf"step-(\d{{7,}}){re.escape(_CKPT)}")


def checkpoint_name(step: int) -> str:
    """Return the file name of the checkpoint of a step. There is no ``=`` in it: Hydra could not read that.

    Args:
        step: The optimizer steps done.

    Example:
        >>> checkpoint_name(250)
        'step-0000250.ckpt'
    """
    return f"step-{step:07d}{_CKPT}"


def step_of(name: str) -> int | None:
    """Return the step of a checkpoint; None where the name is no step's.

    Args:
        name: The name of a file.

    Example:
        >>> step_of("step-0000250.ckpt"), step_of("best_val.ckpt")
        (250, None)
    """
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


def checkpoints_in(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run directory, in the order of their steps, and others after them.

    Args:
        run_dir: The directory of the run; it need not exist.
    """
    steps = ((step_of(path.name), path) for path in (run_dir / CHECKPOINTS).glob(f"*{_CKPT}"))
    return [path for _, path in sorted((math.inf if step is None else step, path) for step, path in steps)]


def unfinished_checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints that are being written, or were when their process ended.

    Args:
        folder: The folder of the checkpoints of a run; it may be missing.
    """
    return [path for path, name in unfinished_in(folder) if name.endswith(_CKPT)]


def unfinished_outputs_in(run_dir: Path) -> list[Path]:
    """Return every file of a run that is being written, or was when its process ended.

    Args:
        run_dir: The directory of the run; it may be missing.
    """
    files = [path for path, name in unfinished_in(run_dir) if name in OUTPUTS]
    return files + unfinished_checkpoints_in(run_dir / CHECKPOINTS)


def run_dir_of(ckpt_path: Path) -> Path:
    """Return the directory of the run that a checkpoint lies in, if it lies where its run wrote it.

    Args:
        ckpt_path: The path of the checkpoint.

    Example:
        >>> run_dir_of(Path("runs/1/checkpoints/best_val.ckpt")).as_posix()
        'runs/1'
    """
    return ckpt_path.parent.parent


def earlier_config_name(step: int, number: int = 1) -> str:
    """Return the name under which the settings until a step are kept, of a run that went on from there with others.

    It is not one of :data:`OUTPUTS`, as it lies beside a new :data:`CONFIG`.

    Args:
        step: The step that the run went on from.
        number: Which file of this step it is, from 1.

    Example:
        >>> earlier_config_name(250), earlier_config_name(250, 2)
        ('config-until-step-0000250.yaml', 'config-until-step-0000250-2.yaml')
    """
    return f"config-until-step-{step:07d}{'' if number == 1 else f'-{number}'}.yaml"


def is_checkpoint_of(run_dir: Path, ckpt_path: Path | None) -> bool:
    """Return whether a checkpoint lies in a run directory, so that the run goes on in it instead of branching off.

    Args:
        run_dir: The directory of the run.
        ckpt_path: The checkpoint that the run goes on from; None for a run that starts.
    """
    return ckpt_path is not None and ckpt_path.parent.resolve() == (run_dir / CHECKPOINTS).resolve()


def outputs_in(run_dir: Path) -> list[str]:
    """Return the names of :data:`OUTPUTS` that are in a directory.

    Args:
        run_dir: The directory; it may be missing.
    """
    try:
        there = {path.name for path in run_dir.iterdir()}
    except OSError:  # it is not there, or cannot be looked into
        return []
    return [name for name in OUTPUTS if name in there]


def find_runs(folder: Path) -> list[Path]:
    """Find every run directory in a folder and below, and every empty folder, in the order of their numbers and names.

    Args:
        folder: The folder, for example that of a sweep.
    """
    found = []
    for path, subfolders, files in os.walk(folder):
        is_empty_job = not (subfolders or files) and Path(path) != folder
        if is_empty_job or any(mark in files for mark in MARKS):
            found.append(Path(path))
            subfolders.clear()  # what is below is the run's own
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name != WANDB]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort ``10`` after ``9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path.parts]
