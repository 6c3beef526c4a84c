"""``python -m layermatch.run``: train, evaluate, and leave a run directory behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
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
from layermatch.build import RunParts, build_loggers, build_parts, build_trainer
from layermatch.callbacks import (
    CheckpointWriter,
    CostMonitor,
    FeatureClustering,
    Guards,
    ProgressDisplay,
    Provenance,
    TestPredictions,
)
from layermatch.callbacks.panels import KeepRunId, Panels
from layermatch.checkpoints import FOLDER, newest_checkpoint, newest_run, read_checkpoint
from layermatch.cli import plain, run_app
from layermatch.console import Reporter, settings_tree, table
from layermatch.data import Split
from layermatch.data.loader import loader_errors
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_number
from layermatch.failures import one_line_failures
from layermatch.figures import draw_pairs
from layermatch.launch import find_launch, take_rank
from layermatch.plan import plan_rows
from layermatch.quiet import quiet_libraries
from layermatch.results import collect_results, draw_results, report_results, sweep_rows
from layermatch.resume import changed_rows, check_resume, keep_config, split_to_go_on_with
from layermatch.run_directory import lock_run_dir, replace_text

__all__ = ["main", "run"]

#: What a run writes into its directory; none of it may be there before a new run.
OUTPUTS = (
    "config.yaml", "split.json", "run.log", "metrics.csv", "results.json", "predictions.csv", FOLDER, "figures",
)  # fmt: skip


#: Tells a sweep's job in a process of its own the sweep's name.
SWEEP_VARIABLE = "LAYERMATCH_SWEEP"


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
    _take_place(settings["trainer"])
    _check_run_dir(run_dir, ckpt_path)
    with ExitStack() as held:
        if _goes_on(run_dir, ckpt_path):
            held.enter_context(lock_run_dir(run_dir))  # before reading: a run that is here removes old checkpoints
        checkpoint = None if ckpt_path is None else read_checkpoint(ckpt_path)
        parts = build_parts(settings, split=_split_of(checkpoint, settings, ckpt_path))
        first_step = _check_resume(parts, settings, checkpoint, run_dir=run_dir, ckpt_path=ckpt_path)
        changed = [] if checkpoint is None else changed_rows(checkpoint, settings)
        checkpoint = None  # as large as the network: not to be held while it trains
        if not _goes_on(run_dir, ckpt_path):
            held.enter_context(lock_run_dir(run_dir))
            _check_run_dir(run_dir, ckpt_path)  # again: it may have been another run's until now
        loggers = build_loggers(settings, run_dir=run_dir, first_step=first_step)
        predictions = TestPredictions()
        callbacks = [*_callbacks(settings, parts, run_dir), *_dashboard_callbacks(loggers, parts), predictions]
        trainer = build_trainer(settings, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
        # All checks are behind us: from here on the run writes.
        held.enter_context(one_line_failures())
        _start_run_dir(run_dir, settings, parts, first_step=first_step)
        failed = True
        reporter = Reporter(run_dir / "run.log")
        try:
            run_id = dashboards.continued_run(loggers, run_dir=run_dir, ckpt_path=ckpt_path)
            dashboards.begin(loggers, settings, overrides=overrides, sweep=sweep, run_id=run_id)
            if changed:
                header = ("setting", "was", "is")
                reporter.show(table(f"Changed since step {first_step}", changed, header=header))
            results = _train_and_evaluate(settings, parts, trainer, reporter, run_dir=run_dir, ckpt_path=ckpt_path)
            results["seconds"] = round(time.monotonic() - started, 1)
            report_results(results, reporter, run_dir)
            draw_results(parts, predictions.table, run_dir)
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
    return collect_results(settings, parts, trainer, run_dir=run_dir)


# ----------------------------------------------------------------------------------------------------------- before


def _take_place(trainer: dict[str, Any]) -> None:
    """Find out which process of the run this is, before anything is written."""
    for name in ("devices", "num_nodes"):
        check_number(f"trainer.{name}", trainer[name], low=1, integer=True)
    take_rank(find_launch(devices=trainer["devices"], num_nodes=trainer["num_nodes"]))


def _check_run_dir(run_dir: Path, ckpt_path: Path | None) -> None:
    """Refuse a directory that holds another run, or files that a run would overwrite."""
    if not is_rank_zero():
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is a file: give a directory")
    if _goes_on(run_dir, ckpt_path):
        return
    there = [name for name in OUTPUTS if (run_dir / name).exists()]
    if there:
        kind = "a finished run" if "results.json" in there else "a run or files of the same names"
        raise UserError(
            f"run_dir={run_dir} already holds {kind} ({', '.join(there)}): give another run_dir, or ckpt_path=last "
            f"to go on"
        )


def _goes_on(run_dir: Path, ckpt_path: Path | None) -> bool:
    """Whether the run goes on in its own directory."""
    return ckpt_path is not None and ckpt_path.parent.resolve() == (run_dir / FOLDER).resolve()


def _split_of(checkpoint: dict[str, Any] | None, settings: dict[str, Any], ckpt_path: Path | None) -> Split | None:
    """The split that a run goes on with; None where it is drawn."""
    if checkpoint is None or ckpt_path is None:
        return None
    return split_to_go_on_with(checkpoint, settings, path=ckpt_path)


def _check_resume(
    parts: RunParts,
    settings: dict[str, Any],
    checkpoint: dict[str, Any] | None,
    *,
    run_dir: Path,
    ckpt_path: Path | None,
) -> int:
    """The step that the run starts at."""
    if checkpoint is None or ckpt_path is None:
        return 0
    # One that was stopped between its last step and its results has its evaluation left.
    is_finished = not _goes_on(run_dir, ckpt_path) or (run_dir / "results.json").exists()
    return check_resume(
        parts, settings, checkpoint=checkpoint, path=ckpt_path, folder=run_dir / FOLDER, is_finished=is_finished
    )


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
def _start_run_dir(run_dir: Path, settings: dict[str, Any], parts: RunParts, *, first_step: int) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    keep_config(run_dir, settings, step=first_step)
    replace_text(run_dir / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    parts.data.save_split(run_dir / "split.json")
    draw_pairs(parts.data, run_dir / "figures" / "views.png")


# ------------------------------------------------------------------------------------------------------ command line


def _train(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """One job of the command line: its run directory and results."""
    settings = plain(config)
    hydra_config = HydraConfig.get()
    run_dir = Path(str(settings["run_dir"]))  # a name of digits is a number to Hydra
    in_sweep, sweep = hydra_config.mode == RunMode.MULTIRUN, os.environ.get(SWEEP_VARIABLE, "")
    if in_sweep:
        sweep = run_dir.name
        run_dir /= str(hydra_config.sweep.subdir)
        if settings["trainer"]["devices"] != 1:
            return run_dir, _run_in_own_process(run_dir, sweep=sweep)
    is_default = not any(override.startswith("run_dir=") for override in hydra_config.overrides.task)
    run_dir, ckpt_path = _resolve_checkpoint(settings["ckpt_path"], run_dir, search_newest=is_default and not in_sweep)
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


def _run_in_own_process(run_dir: Path, *, sweep: str) -> dict[str, Any]:
    """A sweep's job on several devices.

    Lightning starts the other ranks by running the command line again; with ``-m`` in it each rank would start a sweep
    of its own, and all would wait for each other. A process without ``-m`` per job has neither problem.
    """
    hydra_config = HydraConfig.get()
    folders = [s.path for s in hydra_config.runtime.config_sources if s.provider == "command-line"]
    command = [sys.executable, "-m", "layermatch.run", *hydra_config.overrides.task, f"run_dir={run_dir}"]
    for folder in folders:
        command += ["--config-dir", folder]
    environment = os.environ | {SWEEP_VARIABLE: sweep}
    status = subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 -- our own module, no shell
    if status:
        raise UserError(f"the job in {run_dir} ended with status {status}: see its lines above")
    results: dict[str, Any] = json.loads((run_dir / "results.json").read_text())
    return results


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
        Reporter().show(table("Sweep", sweep_rows(jobs), header=header))


if __name__ == "__main__":
    main()
