"""``python -m layermatch.run``: train, evaluate, and leave a run directory behind."""

from __future__ import annotations

import json
import logging
import platform
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
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from layermatch import __version__, dashboards
from layermatch.algorithms import Algorithm
from layermatch.build import RunParts, build_loggers, build_parts, build_trainer
from layermatch.callbacks import CHECKPOINT_KEY, ProgressDisplay, Provenance
from layermatch.callbacks.panels import KeepRunId, Panels
from layermatch.checkpoints import FOLDER, check_fits, newest_checkpoint, newest_run, read_checkpoint
from layermatch.cli import plain, run_app
from layermatch.console import Reporter, settings_tree, table
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError
from layermatch.figures import draw_confusion, draw_curves, draw_pairs
from layermatch.plan import plan_rows

__all__ = ["main", "quiet_libraries", "run"]

#: What a run writes into its directory; none of it may be there before a new run.
OUTPUTS = ("config.yaml", "split.json", "run.log", "metrics.csv", "results.json", FOLDER, "figures")


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
    first_step = _check_resume(parts, settings, ckpt_path)
    loggers = build_loggers(settings, run_dir=run_dir, first_step=first_step)
    callbacks = _callbacks(settings, parts, run_dir) + _dashboard_callbacks(loggers, parts)
    trainer = build_trainer(settings, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
    # All checks are behind us: from here on the run writes.
    _start_run_dir(run_dir, settings, parts)
    failed = True
    reporter = Reporter(run_dir / "run.log")
    progress = ProgressDisplay(reporter)
    trainer.callbacks.append(progress)  # type: ignore[attr-defined]
    try:
        run_id = dashboards.continued_run(loggers, run_dir=run_dir, ckpt_path=ckpt_path)
        dashboards.begin(loggers, settings, overrides=overrides, sweep=sweep, run_id=run_id)
        reporter.show(settings_tree(settings, title=f"layermatch {__version__}"))
        reporter.show(table("Plan", plan_rows(settings, parts, trainer)))
        trainer.fit(parts.algorithm, datamodule=parts.data, ckpt_path=ckpt_path, weights_only=True)
        results = _finish(settings, parts, trainer, run_dir=run_dir)
        results["seconds"] = round(time.monotonic() - started, 1)
        _report(results, reporter, run_dir)
        _draw(parts, run_dir)
        dashboards.show_results(loggers, _confusion(parts) | results, run_dir / "figures")
        failed = False
    finally:
        for logger in loggers:
            logger.finalize("success")
        dashboards.close(loggers, failed=failed)
        reporter.close()
    return results


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


def _check_resume(parts: RunParts, settings: dict[str, Any], ckpt_path: Path | None) -> int:
    """The step that the run starts at."""
    if ckpt_path is None:
        return 0
    checkpoint = read_checkpoint(ckpt_path)
    check_fits(checkpoint, parts.algorithm.state_dict(), classes=parts.data.classes, path=ckpt_path)
    step, max_steps = int(checkpoint["global_step"]), settings["trainer"]["max_steps"]
    if step >= max_steps:
        raise UserError(
            f"ckpt_path={ckpt_path} is at step {step} already: give trainer.max_steps above that, not {max_steps}"
        )
    its_split, split = checkpoint[CHECKPOINT_KEY]["split"], parts.data.split
    if (tuple(its_split["labelled"]), tuple(its_split["validation"])) != (split.labelled, split.validation):
        raise UserError(f"ckpt_path={ckpt_path} has other labelled images: give its seed, or data.split of its run")
    return step


def _callbacks(settings: dict[str, Any], parts: RunParts, run_dir: Path) -> list[Callback]:
    checkpoint = settings["checkpoint"]
    callbacks: list[Callback] = [
        Provenance(settings=settings, classes=parts.data.classes, split=parts.data.split),
        ModelCheckpoint(
            run_dir / FOLDER,
            filename="step-{step:07d}",
            auto_insert_metric_name=False,
            every_n_train_steps=checkpoint["every_n_steps"],
            monitor="step",
            mode="max",
            save_top_k=checkpoint["keep"],
        ),
    ]
    if checkpoint["selection"] == "best_val":
        best = ModelCheckpoint(run_dir / FOLDER, filename="best_val", monitor="val/accuracy_ema", mode="max")
        callbacks.append(best)
    return callbacks


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
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    parts.data.save_split(run_dir / "split.json")
    draw_pairs(parts.data, run_dir / "figures" / "views.png")


# ------------------------------------------------------------------------------------------------------------ after


def _finish(settings: dict[str, Any], parts: RunParts, trainer: Trainer, *, run_dir: Path) -> dict[str, Any]:
    """Save the last step, and evaluate what ``checkpoint.selection`` says."""
    algorithm, data = parts.algorithm, parts.data
    steps = trainer.global_step
    last = run_dir / FOLDER / f"step-{steps:07d}.ckpt"
    if not last.exists():
        trainer.save_checkpoint(last)
    selection = _select(settings, algorithm, trainer)
    pseudo_labels = {name: algorithm.latest.get(f"pseudo_labels/{name}") for name in ("mask_rate", "accuracy")}
    val = test = None
    if data.validation is not None:
        trainer.validate(algorithm, datamodule=data, verbose=False)
        val = _accuracies(algorithm, "val") | algorithm.median_of_last_evaluations()
    if data.test is not None:
        trainer.test(algorithm, datamodule=data, verbose=False)
        test = _accuracies(algorithm, "test") | {"selection": selection}
    return {
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
    }


def _select(settings: dict[str, Any], algorithm: Algorithm, trainer: Trainer) -> str:
    """Load the weights that are reported; say which."""
    if settings["checkpoint"]["selection"] == "last":
        return "last step"
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == "val/accuracy_ema":
            checkpoint = read_checkpoint(callback.best_model_path)
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
    path = run_dir / "results.json"
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(results, indent=2) + "\n")
    unfinished.replace(path)
    reporter.show(table("Results", _result_rows(results)))
    reporter.show(f"run directory: {run_dir}")


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
        shown = {name: "unknown" if value is None else f"{value:.2%}" for name, value in quality.items()}
        rows["pseudo-labels"] = f"accuracy {shown['accuracy']} of the {shown['mask_rate']} that count (last steps)"
    rows["time"] = f"{results['seconds']:.0f} s for {results['steps']} steps, start and evaluation included"
    return rows


@rank_zero_only
def _draw(parts: RunParts, run_dir: Path) -> None:
    metrics = run_dir / "metrics.csv"
    if metrics.is_file():
        draw_curves(metrics, run_dir / "figures")
    if parts.algorithm.test_confusion is not None:
        draw_confusion(parts.algorithm.test_confusion, parts.data.classes, run_dir / "figures" / "confusion.png")


def _confusion(parts: RunParts) -> dict[str, Any]:
    confusion = parts.algorithm.test_confusion
    return {"classes": list(parts.data.classes), "confusion": None if confusion is None else confusion.tolist()}


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
    with quiet_libraries():
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
            # A checkpoint holds the weights after its step, with the optimizer's state of the same moment.
            "Using ModelCheckpoint with manual optimization.*",
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
