"""What a run found: its accuracies and pseudo-labels, as ``results.json``, as a table and as figures."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from layermatch.build import RunParts
from layermatch.callbacks import CheckpointWriter, PredictionTable
from layermatch.catalogue import END, EVALUATION, Place
from layermatch.checkpoints import read_checkpoint
from layermatch.console import Reporter, table
from layermatch.figures import draw_confusion, draw_curves, draw_mistakes
from layermatch.files import replace_text
from layermatch.metrics import (
    ACCURACY_ACCEPTED,
    CATALOGUE,
    MASK_RATE,
    PSEUDO_ACCURACY,
    PSEUDO_ENTROPY,
    TEST_ACCURACY_EMA,
    VAL_ACCURACY_EMA,
    Metric,
    accuracies,
    macro_accuracies,
    own_metrics,
)
from layermatch.policies import Policy
from layermatch.runs import layout
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

__all__ = ["collect_results", "draw_results", "report_results", "sweep_rows"]

_log = logging.getLogger(__name__)

#: What ``results.json`` says of the pseudo-labels, or says that it does not know.
PSEUDO_LABELS = (MASK_RATE, ACCURACY_ACCEPTED, PSEUDO_ACCURACY, PSEUDO_ENTROPY)
LAST_STEP = "last step"
#: What two accuracies may differ by so that the table shows one: sets that are balanced but for a few images.
SAME = 0.005


def collect_results(settings: Settings, parts: RunParts, trainer: Trainer, *, run_dir: Path) -> dict[str, Any]:
    """Save the last step, and evaluate the weights that ``checkpoint.selection`` says.

    Args:
        settings: The settings of the run.
        parts: The parts of the run, trained.
        trainer: The trainer that trained them.
        run_dir: The directory of the run.

    Returns:
        The content of ``results.json``; ``seconds`` is 0 still.
    """
    algorithm, data = parts.algorithm, parts.data
    steps = trainer.global_step
    last = run_dir / layout.CHECKPOINTS / layout.checkpoint_name(steps)
    # A run in another directory may have had nothing left to train. Rank 0 looks: all save together, or none does.
    if not trainer.strategy.broadcast(last.exists()):
        trainer.save_checkpoint(last)
    selection = _select(settings, algorithm, trainer)
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
    results = {
        "status": "finished",
        "algorithm": settings.algorithm.name,
        "experiment": settings.name,
        "seed": settings.seed,
        "num_labels": len(data.labelled),
        "steps": steps,
        "checkpoint": last.name if selection == LAST_STEP else layout.BEST_CHECKPOINT,
        "test": test,
        "val": val,
        "pseudo_labels": None,
        "loss": None,
        "seconds": 0.0,
        "leaks": None
        if data.leaks_found is None
        else data.leaks_found.plain(uses_unlabelled=algorithm.uses_unlabelled),
        "versions": _versions(),
        "classes": list(data.classes),
        "confusion": None if confusion is None else confusion.tolist(),
    }
    means = _last_steps(algorithm)
    return results | {section: figures for section, figures in means.items() if results.get(section) is None}


def _last_steps(algorithm: SemiSupervisedModule) -> dict[str, dict[str, float | None]]:
    """Say what is known of the last steps, by section and key of ``results.json``; None for what they do not tell."""
    makes_pseudo_labels = any(isinstance(module, Policy) for module in algorithm.method.modules())
    expected = PSEUDO_LABELS if makes_pseudo_labels else ()
    names = dict.fromkeys([*(metric.name for metric in expected), *algorithm.latest])
    sections: dict[str, dict[str, float | None]] = {}
    for metric in CATALOGUE.plus(own_metrics(algorithm)).arrange(names):
        if Place.RESULTS in metric.places and metric.over_interval not in {EVALUATION, END}:
            section, key = metric.path
            sections.setdefault(section, {})[key] = algorithm.latest.get(metric.name)
    return sections


@contextmanager
def _loggers(trainer: Trainer, *, are_on: bool) -> Iterator[None]:
    """Give the trainer's loggers, or none."""
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
            return f"best {VAL_ACCURACY_EMA.name}, step {checkpoint['global_step']}"
    raise RuntimeError("no evaluation chose a checkpoint")


def _accuracies(algorithm: SemiSupervisedModule, split: str) -> dict[str, Any]:
    found = {metric.path[-1]: algorithm.latest[metric.name] for metric in accuracies(split).values()}
    return found | algorithm.evaluation.macro[split]


def _versions() -> dict[str, str]:
    packages = ("layermatch", "torch", "torchvision", "lightning", "torchmetrics")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


@rank_zero_only
def report_results(results: dict[str, Any], reporter: Reporter, run_dir: Path) -> None:
    """Print the results and write ``results.json``.

    Args:
        results: The results, as :func:`collect_results` gives them, with the seconds.
        reporter: The reporter that prints.
        run_dir: The directory of the run.
    """
    reporter.show(table("Results", _result_rows(results)))  # first: a full disk hides no figures
    replace_text(run_dir / layout.RESULTS, _readable_json(results))
    reporter.show(f"run directory: {run_dir}")


def _readable_json(results: dict[str, Any]) -> str:
    """Write results as indented JSON, a list of numbers or names in one line: a confusion matrix has one a class."""
    text = json.dumps(results, indent=2)
    # Only line breaks go, and a text in JSON has none: whatever the pattern finds, the values stay.
    return re.sub(r"\[[^][]*\]", lambda found: re.sub(r"\n\s*", "", found[0].replace(",\n", ", \n")), text) + "\n"


def _result_rows(results: dict[str, Any]) -> dict[str, str]:
    rows = {"algorithm": f"{results['algorithm']}, {results['num_labels']} labels, seed {results['seed']}"}
    for split in ("test", "val"):
        if results[split] is not None:
            of_images, of_classes = accuracies(split).values(), macro_accuracies(split).values()
            rows[f"{split} accuracy"] = _shares_text(of_images, results)
            pairs = zip(of_images, of_classes, strict=True)
            # Nearly the same figures again where all classes have as many images, or almost.
            if any(abs(macro.read(results) - micro.read(results)) > SAME for micro, macro in pairs):
                rows[f"{split}, mean of classes"] = _shares_text(of_classes, results)
    if results["test"] is not None:
        rows["selected by"] = results["test"]["selection"]
    if results["pseudo_labels"] is not None:
        rows["pseudo-labels"] = _quality_text(results)
    leaks = results.get("leaks")
    if leaks is not None and any(any(leaks[group].values()) for group in ("labelled", "unlabelled", "validation")):
        rows["leaks"] = leaks["text"]
    rows["time"] = f"{results['seconds']:.0f} s for {results['steps']} steps, start and evaluation included"
    return rows


def _shares_text(metrics: Iterable[Metric], results: dict[str, Any]) -> str:
    """Write the figures of live and averaged weights, those that are reported first."""
    return ", ".join(f"{metric.in_legend} {metric.read(results):.2%}" for metric in reversed(list(metrics)))


def _quality_text(results: dict[str, Any]) -> str:
    shares = (metric.read(results) for metric in (MASK_RATE, ACCURACY_ACCEPTED, PSEUDO_ACCURACY))
    mask, right, all_right = ("unknown" if share is None else f"{share:.2%}" for share in shares)
    if PSEUDO_ACCURACY.read(results) is None:
        return f"{mask} count; accuracy unknown: no class of an unlabelled image is known (last steps)"
    return f"accuracy {right} of the {mask} that count, {all_right} of all (last steps)"


@rank_zero_only
def draw_results(parts: RunParts, predictions: PredictionTable | None, run_dir: Path, *, figures: bool = True) -> None:
    """Write ``predictions.csv`` and the figures; a disk that has no room for them is a warning.

    Args:
        parts: The parts of the run, evaluated.
        predictions: The predictions for the test images, where there are any.
        run_dir: The directory of the run.
        figures: Whether figures are drawn.
    """
    try:
        if predictions is not None and parts.data.test is not None:
            predictions.write_csv(run_dir / layout.PREDICTIONS, files=parts.data.content.image_ids.get("test"))
        if figures:
            _draw(parts, predictions, run_dir)
    except OSError as error:
        _log.warning("cannot write the figures: %s", error)  # the results are written already


def _draw(parts: RunParts, predictions: PredictionTable | None, run_dir: Path) -> None:
    data, folder, metrics = parts.data, run_dir / layout.FIGURES, run_dir / layout.METRICS
    if predictions is not None and data.test is not None:
        files = data.content.image_ids.get("test")
        draw_mistakes(predictions, data.test, data.classes, folder / layout.MISTAKES, files=files)
    if metrics.is_file():
        draw_curves(metrics, folder, catalogue=CATALOGUE.plus(own_metrics(parts.algorithm)))
    if parts.algorithm.evaluation.test_confusion is not None:
        draw_confusion(parts.algorithm.evaluation.test_confusion, data.classes, folder / layout.CONFUSION)


def sweep_rows(jobs: list[tuple[Path, dict[str, Any]]]) -> list[tuple[str, ...]]:
    """Return a line for each job of a sweep: directory, algorithm, labels, seed, accuracies of the EMA weights.

    Args:
        jobs: The run directories with their results.

    Example:
        >>> found = {"algorithm": "fixmatch", "num_labels": 40, "seed": 1, "test": {"accuracy_ema": 0.5}, "val": None}
        >>> sweep_rows([(Path("runs/0"), found)])
        [('runs/0', 'fixmatch', '40', '1', '50.00%', '-')]
    """
    rows = []
    for run_dir, results in jobs:
        found = (metric.read(results) for metric in (TEST_ACCURACY_EMA, VAL_ACCURACY_EMA))
        shown = ["-" if accuracy is None else f"{accuracy:.2%}" for accuracy in found]
        rows.append((str(run_dir), results["algorithm"], str(results["num_labels"]), str(results["seed"]), *shown))
    return rows
