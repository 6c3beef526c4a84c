"""What a run found: its accuracies and pseudo-labels, as ``results.json``, as a table and as figures."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from layermatch.build import RunParts
from layermatch.callbacks import CheckpointWriter, PredictionTable
from layermatch.checkpoints import read_checkpoint
from layermatch.console import Reporter, table
from layermatch.figures import draw_confusion, draw_curves, draw_mistakes
from layermatch.runs import layout
from layermatch.runs.directory import replace_text
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

__all__ = ["collect_results", "draw_results", "report_results", "sweep_rows"]

_log = logging.getLogger(__name__)

#: What ``results.json`` says of the pseudo-labels.
PSEUDO_LABELS = ("mask_rate", "accuracy", "accuracy_accepted", "entropy")
LAST_STEP = "last step"


def collect_results(settings: Settings, parts: RunParts, trainer: Trainer, *, run_dir: Path) -> dict[str, Any]:
    """Save the last step, and evaluate the weights that ``checkpoint.selection`` says.

    Args:
        settings: of the run.
        parts: of the run, trained.
        trainer: that trained them.
        run_dir: of the run.

    Returns:
        The content of ``results.json``; ``seconds`` is 0 still.
    """
    algorithm, data = parts.algorithm, parts.data
    steps = trainer.global_step
    last = run_dir / layout.CHECKPOINTS / layout.checkpoint_name(steps)
    if not last.exists():  # a run in another directory that had nothing left to train
        trainer.save_checkpoint(last)
    selection = _select(settings, algorithm, trainer)
    pseudo_labels = {name: algorithm.latest.get(f"pseudo_labels/{name}") for name in PSEUDO_LABELS}
    val = test = None
    if data.validation is not None:
        every = settings.eval_every * settings.algorithm.accumulate
        # Of the last step there is a line already, or there shall be none: the weights are those of another step.
        with _loggers(trainer, are_on=selection == LAST_STEP and algorithm.next_batch % every != 0):
            trainer.validate(algorithm, datamodule=data, verbose=False)
        val = _accuracies(algorithm, "val") | algorithm.evaluation.median()
    if data.test is not None:
        trainer.test(algorithm, datamodule=data, verbose=False)
        test = _accuracies(algorithm, "test") | {"selection": selection}
    confusion = algorithm.evaluation.test_confusion
    return {
        "status": "finished",
        "algorithm": settings.algorithm.name,
        "experiment": settings.name,
        "seed": settings.seed,
        "num_labels": len(data.labelled),
        "steps": steps,
        "test": test,
        "val": val,
        "pseudo_labels": pseudo_labels if algorithm.uses_unlabelled else None,
        "seconds": 0.0,
        "versions": _versions(),
        "classes": list(data.classes),
        "confusion": None if confusion is None else confusion.tolist(),
    }


@contextmanager
def _loggers(trainer: Trainer, *, are_on: bool) -> Iterator[None]:
    """The trainer's loggers, or none."""
    loggers = trainer.loggers
    trainer.loggers = loggers if are_on else []
    try:
        yield
    finally:
        trainer.loggers = loggers


def _select(settings: Settings, algorithm: SemiSupervisedModule, trainer: Trainer) -> str:
    """Load the weights that are reported; say which."""
    if settings.checkpoint.selection == "last":
        return LAST_STEP
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, CheckpointWriter):
            checkpoint = read_checkpoint(callback.best_path)
            algorithm.load_state_dict(checkpoint["state_dict"])
            return f"best val/accuracy_ema, step {checkpoint['global_step']}"
    raise RuntimeError("no evaluation chose a checkpoint")


def _accuracies(algorithm: SemiSupervisedModule, split: str) -> dict[str, Any]:
    return {name: algorithm.latest[f"{split}/{name}"] for name in ("accuracy", "accuracy_ema")}


def _versions() -> dict[str, str]:
    packages = ("layermatch", "torch", "torchvision", "lightning", "torchmetrics")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


@rank_zero_only
def report_results(results: dict[str, Any], reporter: Reporter, run_dir: Path) -> None:
    """Print the results and write ``results.json``.

    Args:
        results: as :func:`collect_results` gives them, with the seconds.
        reporter: what prints.
        run_dir: of the run.
    """
    reporter.show(table("Results", _result_rows(results)))  # first: a full disk hides no figures
    replace_text(run_dir / layout.RESULTS, _readable_json(results))
    reporter.show(f"run directory: {run_dir}")


def _readable_json(results: dict[str, Any]) -> str:
    """Indented, but a list of numbers or names in one line: a confusion matrix has a line for each class."""
    text = json.dumps(results, indent=2)
    # Only line breaks go, and a text in JSON has none: whatever the pattern finds, the values stay.
    return re.sub(r"\[[^][]*\]", lambda found: re.sub(r"\n\s*", "", found[0].replace(",\n", ", \n")), text) + "\n"


def _result_rows(results: dict[str, Any]) -> dict[str, str]:
    rows = {"algorithm": f"{results['algorithm']}, {results['num_labels']} labels, seed {results['seed']}"}
    for split in ("test", "val"):
        accuracy = results[split]
        if accuracy is not None:
            rows[f"{split} accuracy"] = (
                f"EMA weights {accuracy['accuracy_ema']:.2%}, live weights {accuracy['accuracy']:.2%}"
            )
    if results["test"] is not None:
        rows["selected by"] = results["test"]["selection"]
    quality = results["pseudo_labels"]
    if quality is not None:
        rows["pseudo-labels"] = _quality_text(quality)
    rows["time"] = f"{results['seconds']:.0f} s for {results['steps']} steps, start and evaluation included"
    return rows


def _quality_text(quality: dict[str, float | None]) -> str:
    mask, all_right, right = (
        "unknown" if quality[name] is None else f"{quality[name]:.2%}" for name in PSEUDO_LABELS[:3]
    )
    if quality["accuracy"] is None:
        return f"{mask} count; accuracy unknown: no class of an unlabelled image is known (last steps)"
    return f"accuracy {right} of the {mask} that count, {all_right} of all (last steps)"


@rank_zero_only
def draw_results(parts: RunParts, predictions: PredictionTable | None, run_dir: Path) -> None:
    """Write ``predictions.csv`` and the figures; a disk that has no room for them is a warning.

    Args:
        parts: of the run, evaluated.
        predictions: of the test images, where there are any.
        run_dir: of the run.
    """
    data, figures = parts.data, run_dir / layout.FIGURES
    metrics = run_dir / layout.METRICS
    try:
        if predictions is not None and data.test is not None:
            predictions.write_csv(run_dir / layout.PREDICTIONS, files=data.content.image_ids.get("test"))
            draw_mistakes(predictions, data.test, data.classes, figures / "mistakes.png")
        if metrics.is_file():
            draw_curves(metrics, figures)
        if parts.algorithm.evaluation.test_confusion is not None:
            draw_confusion(parts.algorithm.evaluation.test_confusion, data.classes, figures / "confusion.png")
    except OSError as error:
        _log.warning("cannot write the figures: %s", error)  # the results are written already


def sweep_rows(jobs: list[tuple[Path, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """A line for each job of a sweep: directory, algorithm, labels, seed, accuracies of the EMA weights.

    Args:
        jobs: run directories with their results.

    Example:
        >>> found = {"algorithm": "fixmatch", "num_labels": 40, "seed": 1, "test": {"accuracy_ema": 0.5}, "val": None}
        >>> sweep_rows([(Path("runs/0"), found)])
        [('runs/0', 'fixmatch', '40', '1', '50.00%', '-')]
    """
    rows = []
    for run_dir, results in jobs:
        accuracies = [results[split]["accuracy_ema"] if results[split] else None for split in ("test", "val")]
        shown = ["-" if accuracy is None else f"{accuracy:.2%}" for accuracy in accuracies]
        rows.append((str(run_dir), results["algorithm"], str(results["num_labels"]), str(results["seed"]), *shown))
    return rows
