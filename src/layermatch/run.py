"""``python -m layermatch.run``: train, evaluate, and leave a run directory behind."""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from layermatch import __version__, dashboards
from layermatch.algorithms import Algorithm
from layermatch.build import RunParts, build_loggers, build_parts, build_trainer
from layermatch.callbacks import (
    CHECKPOINT_KEY,
    CheckpointWriter,
    CostMonitor,
    FeatureClustering,
    Guards,
    PredictionTable,
    ProgressDisplay,
    Provenance,
    TestPredictions,
)
from layermatch.callbacks.panels import KeepRunId, Panels
from layermatch.checkpoints import FOLDER, check_fits, newest_checkpoint, newest_run, read_checkpoint
from layermatch.cli import plain, run_app
from layermatch.console import Reporter, settings_tree, table
from layermatch.data.loader import loader_errors
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError
from layermatch.failures import one_line_failures
from layermatch.figures import draw_confusion, draw_curves, draw_mistakes, draw_pairs
from layermatch.plan import plan_rows
from layermatch.run_directory import lock_run_dir, replace_text

__all__ = ["main", "quiet_libraries", "run"]

_log = logging.getLogger(__name__)

#: What a run writes into its directory; none of it may be there before a new run.
OUTPUTS = (
    "config.yaml", "split.json", "run.log", "metrics.csv", "results.json", "predictions.csv", FOLDER, "figures",
)  # fmt: skip


#: What ``results.json`` says of the pseudo-labels.
PSEUDO_LABELS = ("mask_rate", "accuracy", "accuracy_accepted", "entropy")


def run(
    settings: dict[str, Any],
    *,
    run_dir: Path,
    ckpt_path: Path | None = None,
    overrides: Sequence[str] = (),
    sweep: str = "",
) -> dict[str, Any]:
    """One run: build, train, evaluate, write.

    Args:
        settings: the composed configuration as plain containers.
        run_dir: where everything is written.
        ckpt_path: a checkpoint to go on from; None starts afresh.
        overrides: what the command line changed in the configuration, for the names on dashboards.
        sweep: the name of the sweep that this is a job of, likewise.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: anything given is not legal. Nothing has been written then.
    """
    started = time.monotonic()
    _check_run_dir(run_dir, ckpt_path)
    parts = build_parts(settings)
    first_step = _check_resume(parts, settings, run_dir=run_dir, ckpt_path=ckpt_path)
    with lock_run_dir(run_dir):
        _check_run_dir(run_dir, ckpt_path)  # again: it may have been another run's until now
        loggers = build_loggers(settings, run_dir=run_dir, first_step=first_step)
        predictions = TestPredictions()
        callbacks = [*_callbacks(settings, parts, run_dir), *_dashboard_callbacks(loggers, parts), predictions]
        trainer = build_trainer(settings, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
        # All checks are behind us: from here on the run writes.
        with one_line_failures():
            _start_run_dir(run_dir, settings, parts)
            failed = True
            reporter = Reporter(run_dir / "run.log")
            try:
                run_id = dashboards.continued_run(loggers, run_dir=run_dir, ckpt_path=ckpt_path)
                dashboards.begin(loggers, settings, overrides=overrides, sweep=sweep, run_id=run_id)
                results = _train_and_evaluate(settings, parts, trainer, reporter, run_dir=run_dir, ckpt_path=ckpt_path)
                results["seconds"] = round(time.monotonic() - started, 1)
                _report(results, reporter, run_dir)
                _draw(parts, predictions.table, run_dir)
                dashboards.show_results(loggers, results, run_dir / "figures")
                failed = False
            finally:
                for logger in loggers:
                    logger.finalize("success")
                dashboards.close(loggers, failed=failed)
                reporter.close()
    return results


def _train_and_evaluate(
    settings: dict[str, Any],
    parts: RunParts,
    trainer: Trainer,
    reporter: Reporter,
    *,
    run_dir: Path,
    ckpt_path: Path | None,
) -> dict[str, Any]:
    trainer.callbacks += [ProgressDisplay(reporter), Guards(reporter)]  # type: ignore[attr-defined]
    reporter.show(settings_tree(settings, title=f"layermatch {__version__}"))
    reporter.show(table("Plan", plan_rows(settings, parts, trainer)))
    trainer.fit(parts.algorithm, datamodule=parts.data, ckpt_path=ckpt_path, weights_only=True)
    return _finish(settings, parts, trainer, run_dir=run_dir)


# ----------------------------------------------------------------------------------------------------------- before


def _check_run_dir(run_dir: Path, ckpt_path: Path | None) -> None:
    """Refuse a directory that holds another run, or files that a run would overwrite."""
    if not is_rank_zero():
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is a file: give a directory")
    if ckpt_path is not None and ckpt_path.parent.resolve() == (run_dir / FOLDER).resolve():
        return  # this run goes on
    there = [name for name in OUTPUTS if (run_dir / name).exists()]
    if there:
        kind = "a finished run" if "results.json" in there else "a run or files of the same names"
        raise UserError(
            f"run_dir={run_dir} already holds {kind} ({', '.join(there)}): give another run_dir, or ckpt_path=last "
            f"to go on"
        )


def _check_resume(parts: RunParts, settings: dict[str, Any], *, run_dir: Path, ckpt_path: Path | None) -> int:
    """The step that the run starts at."""
    if ckpt_path is None:
        return 0
    checkpoint = read_checkpoint(ckpt_path)
    check_fits(checkpoint, parts.algorithm.state_dict(), classes=parts.data.classes, path=ckpt_path)
    step, max_steps = int(checkpoint["global_step"]), settings["trainer"]["max_steps"]
    # One that was stopped between its last step and its results has its evaluation left.
    is_finished = ckpt_path.parent.resolve() != (run_dir / FOLDER).resolve() or (run_dir / "results.json").exists()
    if step > max_steps or (step == max_steps and is_finished):
        raise UserError(
            f"ckpt_path={ckpt_path} is at step {step} already: give trainer.max_steps above that, not {max_steps}"
        )
    its_split, split = checkpoint[CHECKPOINT_KEY]["split"], parts.data.split
    if (tuple(its_split["labelled"]), tuple(its_split["validation"])) != (split.labelled, split.validation):
        raise UserError(f"ckpt_path={ckpt_path} has other labelled images: give its seed, or data.split of its run")
    its_batch, batch = (_images_of_step(s) for s in (checkpoint[CHECKPOINT_KEY]["settings"], settings))
    if its_batch != batch:
        raise UserError(
            f"ckpt_path={ckpt_path} is of a run with {its_batch}, this one has {batch}: the number of devices may "
            f"change, with data.batch_size such that the rest stays"
        )
    return step


def _images_of_step(settings: dict[str, Any]) -> str:
    """What places a run in its sequence of batches."""
    processes = settings["trainer"]["devices"] * settings["trainer"]["num_nodes"]
    labelled, mu = settings["data"]["batch_size"] * processes, settings["data"]["mu"]
    return f"{settings['algorithm']['accumulate']} x {labelled} labelled images a step and mu={mu}"


def _callbacks(settings: dict[str, Any], parts: RunParts, run_dir: Path) -> list[Callback]:
    checkpoint = settings["checkpoint"]
    return [
        Provenance(settings=settings, classes=parts.data.classes, split=parts.data.split),
        FeatureClustering(eval_every=settings["eval_every"]),
        CostMonitor(),
        CheckpointWriter(
            run_dir / FOLDER,
            every_n_steps=checkpoint["every_n_steps"],
            keep=checkpoint["keep"],
            track_best=checkpoint["selection"] == "best_val",
        ),
    ]


def _dashboard_callbacks(loggers: list[Logger], parts: RunParts) -> list[Callback]:
    """Pictures at every evaluation; and the W&B run's id in every checkpoint, beside what Provenance writes."""
    shown = dashboards.dashboards_of(loggers)
    if not shown:
        return []
    data = parts.data
    keepers = [KeepRunId(dashboard) for dashboard in shown if isinstance(dashboard, dashboards.WandbDashboard)]
    return [Panels(shown, classes=data.classes, mean=data.mean, std=data.std), *keepers]


@rank_zero_only
def _start_run_dir(run_dir: Path, settings: dict[str, Any], parts: RunParts) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    replace_text(run_dir / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    parts.data.save_split(run_dir / "split.json")
    draw_pairs(parts.data, run_dir / "figures" / "views.png")


# ------------------------------------------------------------------------------------------------------------ after


def _finish(settings: dict[str, Any], parts: RunParts, trainer: Trainer, *, run_dir: Path) -> dict[str, Any]:
    """Save the last step, and evaluate what ``checkpoint.selection`` says."""
    algorithm, data = parts.algorithm, parts.data
    steps = trainer.global_step
    last = run_dir / FOLDER / f"step-{steps:07d}.ckpt"
    if not last.exists():  # a run in another directory that had nothing left to train
        trainer.save_checkpoint(last)
    selection = _select(settings, algorithm, trainer)
    pseudo_labels = {name: algorithm.latest.get(f"pseudo_labels/{name}") for name in PSEUDO_LABELS}
    val = test = None
    if data.validation is not None:
        trainer.validate(algorithm, datamodule=data, verbose=False)
        val = _accuracies(algorithm, "val") | algorithm.median_of_last_evaluations()
    if data.test is not None:
        trainer.test(algorithm, datamodule=data, verbose=False)
        test = _accuracies(algorithm, "test") | {"selection": selection}
    confusion = algorithm.test_confusion
    return {
        "status": "finished",
        "algorithm": settings["algorithm"]["name"],
        "experiment": settings["name"],
        "seed": settings["seed"],
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


def _select(settings: dict[str, Any], algorithm: Algorithm, trainer: Trainer) -> str:
    """Load the weights that are reported; say which."""
    if settings["checkpoint"]["selection"] == "last":
        return "last step"
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, CheckpointWriter):
            checkpoint = read_checkpoint(callback.best_path)
            algorithm.load_state_dict(checkpoint["state_dict"])
            return f"best val/accuracy_ema, step {checkpoint['global_step']}"
    raise RuntimeError("no evaluation chose a checkpoint")


def _accuracies(algorithm: Algorithm, split: str) -> dict[str, Any]:
    return {name: algorithm.latest[f"{split}/{name}"] for name in ("accuracy", "accuracy_ema")}


def _versions() -> dict[str, str]:
    packages = ("layermatch", "torch", "torchvision", "lightning", "torchmetrics")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


@rank_zero_only
def _report(results: dict[str, Any], reporter: Reporter, run_dir: Path) -> None:
    reporter.show(table("Results", _result_rows(results)))  # first: a full disk hides no figures
    replace_text(run_dir / "results.json", _readable_json(results))
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
        mask, all_right, right = (
            "unknown" if quality[name] is None else f"{quality[name]:.2%}" for name in PSEUDO_LABELS[:3]
        )
        rows["pseudo-labels"] = f"accuracy {right} of the {mask} that count, {all_right} of all (last steps)"
    rows["time"] = f"{results['seconds']:.0f} s for {results['steps']} steps, start and evaluation included"
    return rows


@rank_zero_only
def _draw(parts: RunParts, predictions: PredictionTable | None, run_dir: Path) -> None:
    data, figures = parts.data, run_dir / "figures"
    metrics = run_dir / "metrics.csv"
    try:
        if predictions is not None and data.test is not None:
            predictions.write_csv(run_dir / "predictions.csv")
            draw_mistakes(predictions, data.test, data.classes, figures / "mistakes.png")
        if metrics.is_file():
            draw_curves(metrics, figures)
        if parts.algorithm.test_confusion is not None:
            draw_confusion(parts.algorithm.test_confusion, data.classes, figures / "confusion.png")
    except OSError as error:
        _log.warning("cannot write the figures: %s", error)  # the results are written already


# ------------------------------------------------------------------------------------------------------ command line


def _train(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """One job of the command line: its run directory and results."""
    settings = plain(config)
    hydra_config = HydraConfig.get()
    run_dir = Path(str(settings["run_dir"]))  # a name of digits is a number to Hydra
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    if in_sweep:
        run_dir /= str(hydra_config.sweep.subdir)
        if settings["trainer"]["devices"] != 1:
            return run_dir, _run_in_own_process(run_dir)
    is_default = not any(override.startswith("run_dir=") for override in hydra_config.overrides.task)
    run_dir, ckpt_path = _resolve_checkpoint(settings["ckpt_path"], run_dir, search_newest=is_default and not in_sweep)
    sweep = Path(str(settings["run_dir"])).name if in_sweep else ""
    settings["run_dir"] = str(run_dir)
    overrides = list(hydra_config.overrides.task)
    with quiet_libraries(), loader_errors():
        results = run(settings, run_dir=run_dir, ckpt_path=ckpt_path, overrides=overrides, sweep=sweep)
    return run_dir, results


def _resolve_checkpoint(given: str | None, run_dir: Path, *, search_newest: bool) -> tuple[Path, Path | None]:
    """The run directory and the checkpoint to go on from; ``last`` goes on in the directory that it is found in."""
    if given is None:
        return run_dir, None
    if given == "last":
        run_dir = newest_run(run_dir.parent) if search_newest else run_dir
        return run_dir, newest_checkpoint(run_dir)
    return run_dir, Path(given)


def _run_in_own_process(run_dir: Path) -> dict[str, Any]:
    """A sweep's job on several devices.

    Lightning starts the other ranks by running the command line again; with ``-m`` in it each rank would start a sweep
    of its own, and all would wait for each other. A process without ``-m`` per job has neither problem.
    """
    hydra_config = HydraConfig.get()
    folders = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    command = [sys.executable, "-m", "layermatch.run", *hydra_config.overrides.task, f"run_dir={run_dir}"]
    for folder in folders:
        command += ["--config-dir", folder]
    status = subprocess.run(command, check=False).returncode  # noqa: S603 -- our own module, no shell
    if status:
        raise UserError(f"the job in {run_dir} ended with status {status}: see its lines above")
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return results


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Lightning's remarks that do not fit how we use it off the terminal."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Images in memory need no workers; a step-indexed loader goes on where it should; the directory is ours.
        # The weight average is always in evaluation mode. LeafSpec is Lightning's own affair with torch.
        for message in (
            ".*does not have many workers.*",
            ".*dataloader is not resumable.*",
            ".*exists and is not empty.*",
            r".*module\(s\) in eval mode.*",
            ".*treespec, LeafSpec.*",
            ".*across ranks is zero.*",
            # torchmetrics has put the ranks' parts together by then.
            ".*It is recommended to use `self.log.*sync_dist=True.*",
            # The new name of the argument is unknown to older versions of torch.
            ".*`broadcast_buffers` is deprecated.*",
            ".*callbacks used to create the checkpoint need to be provided.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _sweep_rows(jobs: list[tuple[Path, dict[str, Any]]]) -> list[tuple[str, ...]]:
    rows = []
    for run_dir, results in jobs:
        accuracies = [results[split]["accuracy_ema"] if results[split] else None for split in ("test", "val")]
        shown = ["-" if accuracy is None else f"{accuracy:.2%}" for accuracy in accuracies]
        rows.append((str(run_dir), results["algorithm"], str(results["num_labels"]), str(results["seed"]), *shown))
    return rows


def main() -> None:
    """Entry point of the command line."""
    jobs: list[tuple[Path, dict[str, Any]]] = []

    def job(config: DictConfig) -> float | None:
        """Gives a sweeper the validation accuracy of the EMA weights."""
        run_dir, results = _train(config)
        jobs.append((run_dir, results))
        return None if results["val"] is None else float(results["val"]["accuracy_ema"])

    run_app(job, "run")
    if len(jobs) > 1:
        header = ("run directory", "algorithm", "labels", "seed", "test, EMA", "val, EMA")
        Reporter().show(table("Sweep", _sweep_rows(jobs), header=header))


if __name__ == "__main__":
    main()
