"""``python -m layermatch.run``: train, evaluate, and leave a run directory behind."""

from __future__ import annotations

import os
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
from layermatch.auto_resume import finished_results, is_left_over, outputs_in, resolve_checkpoint
from layermatch.build import RunParts, build_loggers, build_parts, build_trainer
from layermatch.callbacks import (
    CHECKPOINT_KEY,
    CheckpointWriter,
    CostMonitor,
    FeatureClustering,
    Guards,
    ProgressDisplay,
    Provenance,
    TestPredictions,
)
from layermatch.callbacks.panels import KeepRunId, Panels
from layermatch.checkpoints import FOLDER, check_fits, read_checkpoint
from layermatch.cli import is_timed, plain, run_app
from layermatch.console import Reporter, settings_tree, table
from layermatch.data.loader import loader_errors
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError
from layermatch.failures import one_line_failures
from layermatch.figures import draw_pairs
from layermatch.paths import absolute_paths, expand, is_folder
from layermatch.plan import plan_rows
from layermatch.quiet import quiet_libraries
from layermatch.results import collect_results, draw_results, report_results
from layermatch.run_directory import lock_run_dir, replace_text
from layermatch.sweep import SWEEP_VARIABLE, Sweep, goes_on, run_in_own_process

__all__ = ["main", "run"]


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
    run_dir = expand("run_dir", run_dir, "a directory")
    starts_again = settings.get("ckpt_path") == "auto"
    _check_run_dir(run_dir, ckpt_path, starts_again=starts_again)
    with ExitStack() as held:
        if _goes_on(run_dir, ckpt_path):
            held.enter_context(lock_run_dir(run_dir))  # before reading: a run that is here removes old checkpoints
        parts = build_parts(settings)
        first_step = _check_resume(parts, settings, run_dir=run_dir, ckpt_path=ckpt_path)
        if not _goes_on(run_dir, ckpt_path):
            held.enter_context(lock_run_dir(run_dir))
            # Again: it may have been another run's until now.
            _check_run_dir(run_dir, ckpt_path, starts_again=starts_again)
        loggers = build_loggers(settings, run_dir=run_dir, first_step=first_step)
        predictions = TestPredictions()
        callbacks = [*_callbacks(settings, parts, run_dir), *_dashboard_callbacks(loggers, parts), predictions]
        trainer = build_trainer(settings, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
        # All checks are behind us: from here on the run writes.
        held.enter_context(one_line_failures())
        _start_run_dir(run_dir, settings, parts)
        failed = True
        reporter = Reporter(run_dir / "run.log")
        try:
            run_id = dashboards.continued_run(loggers, run_dir=run_dir, ckpt_path=ckpt_path)
            dashboards.begin(loggers, settings, overrides=overrides, sweep=sweep, run_id=run_id)
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


def _check_run_dir(run_dir: Path, ckpt_path: Path | None, *, starts_again: bool) -> None:
    """Refuse a directory that holds another run, or files that a run would overwrite."""
    if not is_rank_zero():
        return
    if os.path.lexists(run_dir) and not is_folder(run_dir):
        raise UserError(f"run_dir={run_dir} is a file: give a directory")
    if _goes_on(run_dir, ckpt_path) or (starts_again and is_left_over(run_dir)):
        return
    there = outputs_in(run_dir)
    if there:
        kind = "a finished run" if "results.json" in there else "a run or files of the same names"
        advice = "" if starts_again else ", or ckpt_path=auto to go on"
        raise UserError(f"run_dir={run_dir} already holds {kind} ({', '.join(there)}): give another run_dir{advice}")


def _goes_on(run_dir: Path, ckpt_path: Path | None) -> bool:
    """Whether the run goes on in its own directory."""
    return ckpt_path is not None and ckpt_path.parent.resolve() == (run_dir / FOLDER).resolve()


def _check_resume(parts: RunParts, settings: dict[str, Any], *, run_dir: Path, ckpt_path: Path | None) -> int:
    """The step that the run starts at."""
    if ckpt_path is None:
        return 0
    checkpoint = read_checkpoint(ckpt_path)
    check_fits(checkpoint, parts.algorithm.state_dict(), classes=parts.data.classes, path=ckpt_path)
    step, max_steps = int(checkpoint["global_step"]), settings["trainer"]["max_steps"]
    # One that was stopped between its last step and its results has its evaluation left.
    is_finished = not _goes_on(run_dir, ckpt_path) or (run_dir / "results.json").exists()
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


# ------------------------------------------------------------------------------------------------------ command line


def _train(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """One job of the command line: its run directory and results."""
    hydra_config = HydraConfig.get()
    in_sweep, sweep = hydra_config.mode == RunMode.MULTIRUN, os.environ.get(SWEEP_VARIABLE, "")
    settings = _settings_of(config)
    run_dir = _run_dir_of(settings)
    if in_sweep:
        sweep = expand("run_dir", settings["run_dir"], "a directory").name
        if goes_on(settings["ckpt_path"]):
            settings["ckpt_path"] = "auto"
    finished = finished_results(run_dir, settings) if settings["ckpt_path"] == "auto" else None
    if finished is not None:
        Reporter().show(f"{run_dir} is finished, {finished['steps']} steps: nothing to do")
        return run_dir, finished
    if in_sweep and settings["trainer"]["devices"] != 1:
        return run_dir, run_in_own_process(run_dir, sweep=sweep, ckpt_path=settings["ckpt_path"])
    is_new = is_timed(config) and not in_sweep
    run_dir, ckpt_path = resolve_checkpoint(settings["ckpt_path"], run_dir, is_timed=is_new)
    settings["run_dir"] = str(run_dir)
    overrides = list(hydra_config.overrides.task)
    with quiet_libraries(), loader_errors():
        results = run(settings, run_dir=run_dir, ckpt_path=ckpt_path, overrides=overrides, sweep=sweep)
    return run_dir, results


def _settings_of(config: DictConfig) -> dict[str, Any]:
    """The settings; with whole paths, where Hydra has changed the working directory."""
    settings, base = plain(config), Path(HydraConfig.get().runtime.cwd)
    return settings if Path.cwd() == base else absolute_paths(settings, base=base)


def _run_dir_of(settings: dict[str, Any]) -> Path:
    """Of a job: the sweep's directory holds those of its jobs."""
    hydra_config = HydraConfig.get()
    run_dir = expand("run_dir", settings["run_dir"], "a directory")
    return run_dir / str(hydra_config.sweep.subdir) if hydra_config.mode == RunMode.MULTIRUN else run_dir


def main() -> None:
    """Entry point of the command line."""
    sweep = Sweep(_train)

    def job(config: DictConfig) -> float | None:
        """Gives a sweeper the validation accuracy of the EMA weights."""
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _train(config)
            return None
        results = sweep.run(config, run_dir=_run_dir_of(_settings_of(config)))
        if results is None:
            return float("nan")
        return None if results["val"] is None else float(results["val"]["accuracy_ema"])

    run_app(job, "run")
    sweep.end()


if __name__ == "__main__":
    main()
