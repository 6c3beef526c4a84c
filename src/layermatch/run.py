"""``python -m layermatch.run``: train, evaluate, and leave a run directory behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
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
from layermatch.agreement import Agreement
from layermatch.auto_resume import finished_results, is_left_over, resolve_checkpoint
from layermatch.build import RunParts, build_loggers, build_parts, build_trainer, check_steps
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
from layermatch.catalogue import Metric, dumps
from layermatch.checkpoints import read_checkpoint
from layermatch.cli import explain, is_timed, plain, run_app
from layermatch.components import section_of_errors
from layermatch.console import Reporter, settings_tree, table
from layermatch.data import Split
from layermatch.data.loader import loader_errors
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_number
from layermatch.failures import one_line_failures
from layermatch.figures import draw_pairs
from layermatch.files import replace_text
from layermatch.launch import find_launch, take_rank
from layermatch.metrics import CATALOGUE, VAL_ACCURACY_EMA, own_metrics
from layermatch.paths import absolute_paths, expand, is_folder
from layermatch.plan import plan_rows
from layermatch.predictor import open_teacher
from layermatch.quiet import quiet_libraries
from layermatch.rebuilding import as_trained
from layermatch.results import collect_results, draw_results, report_results
from layermatch.resume import changed_rows, check_resume, keep_config, split_to_go_on_with
from layermatch.runs import layout
from layermatch.runs.directory import lock_run_dir, make_run_dir
from layermatch.runs.layout import is_checkpoint_of, outputs_in
from layermatch.runs.plan import write_plan
from layermatch.settings import Settings, check_sections
from layermatch.sweep import SWEEP_VARIABLE, Sweep, goes_on, is_started_elsewhere, run_in_own_process
from layermatch.training.features import learn_from_features

__all__ = ["main", "run"]


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What a run is made of, and where it starts; nothing is written yet."""

    parts: RunParts
    step: int
    #: What is set otherwise than in the checkpoint, as rows of a table.
    changed: list[tuple[str, ...]]
    #: The metrics of the method's own.
    own_metrics: Sequence[Metric]


def run(
    settings: Settings,
    *,
    run_dir: Path,
    ckpt_path: Path | None = None,
    overrides: Sequence[str] = (),
    sweep: str = "",
    agreement: Agreement | None = None,
) -> dict[str, Any]:
    """Return one run: build, train, evaluate, write.

    Args:
        settings: The settings of the run.
        run_dir: The directory in which everything is written.
        ckpt_path: A checkpoint to go on from; None starts afresh.
        overrides: What the command line changed in the configuration, for the names on dashboards.
        sweep: The name of the sweep that this is a job of, also for the names on dashboards.
        agreement: The agreement of the processes of this run; None makes one.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: Anything given is not legal. Nothing has been written then.
    """
    started = time.monotonic()
    with ExitStack() as held:
        agreement = agreement or held.enter_context(_agreement(settings.raw["trainer"]))
        run_dir = expand("run_dir", run_dir, "a directory")
        starts_again = settings.ckpt_path == "auto"
        _check_run_dir(run_dir, ckpt_path, starts_again=starts_again)
        goes_on_here = is_checkpoint_of(run_dir, ckpt_path)
        if goes_on_here:
            held.enter_context(_locked(run_dir))  # before reading: a run that is here removes old checkpoints
        start = _built(settings, agreement, run_dir=run_dir, ckpt_path=ckpt_path)
        if not goes_on_here:
            held.enter_context(_locked(run_dir))
            # Again: it may have been another run's until now.
            _check_run_dir(run_dir, ckpt_path, starts_again=starts_again)
        loggers, predictions = build_loggers(settings, run_dir=run_dir, first_step=start.step), TestPredictions()
        callbacks = [
            *_callbacks(settings, start.parts, run_dir),
            *_dashboard_callbacks(loggers, start.parts),
            predictions,
        ]
        trainer = build_trainer(settings, run_dir=run_dir, callbacks=callbacks, loggers=loggers)
        # All checks are behind us: from here on the run writes.
        for errors in (one_line_failures(), settings.data.named_in_errors(), loader_errors()):
            held.enter_context(errors)
        _start_run_dir(run_dir, settings, start)
        reporter = held.enter_context(closing(Reporter(run_dir / layout.LOG)))
        with _dashboards(loggers):
            run_id = dashboards.continued_run(loggers, run_dir=run_dir, ckpt_path=ckpt_path)
            catalogue = CATALOGUE.plus(start.own_metrics)
            dashboards.begin(
                loggers, settings.raw, overrides=overrides, sweep=sweep, run_id=run_id, catalogue=catalogue
            )
            _show_changed(start.changed, reporter, since=start.step)
            results = _train_and_evaluate(
                settings, start.parts, trainer, reporter, run_dir=run_dir, ckpt_path=ckpt_path
            )
            results["seconds"] = round(time.monotonic() - started, 1)
            report_results(results, reporter, run_dir)
            draw_results(start.parts, predictions.table, run_dir, figures=settings.figures)
            dashboards.show_results(loggers, results, run_dir / layout.FIGURES if settings.figures else None)
    return results


def _show_changed(rows: list[tuple[str, ...]], reporter: Reporter, *, since: int) -> None:
    """Say what is set otherwise than in the checkpoint."""
    if rows:
        reporter.show(table(f"Changed since step {since}", rows, header=("setting", "was", "is")))


def _train_and_evaluate(
    settings: Settings,
    parts: RunParts,
    trainer: Trainer,
    reporter: Reporter,
    *,
    run_dir: Path,
    ckpt_path: Path | None,
) -> dict[str, Any]:
    # Before the writer of checkpoints, which Lightning has put last: what they know of a step is in its checkpoint.
    trainer.callbacks[-1:-1] = [ProgressDisplay(reporter), Guards(reporter)]  # type: ignore[attr-defined]
    reporter.show(settings_tree(settings.raw, title=f"layermatch {__version__}"))
    plan = plan_rows(settings, parts, trainer)
    reporter.show(table("Plan", plan))
    if is_rank_zero():
        write_plan(run_dir, plan)
    trainer.fit(parts.algorithm, datamodule=parts.data, ckpt_path=ckpt_path, weights_only=True)
    return collect_results(settings, parts, trainer, run_dir=run_dir)


@contextmanager
def _dashboards(loggers: list[Logger]) -> Iterator[None]:
    """End dashboards with the run, and tell them whether it failed."""
    failed = True
    try:
        yield
        failed = False
    finally:
        for logger in loggers:
            logger.finalize("success")
        dashboards.close(loggers, failed=failed)


# ----------------------------------------------------------------------------------------------------------- before


def _built(settings: Settings, agreement: Agreement, *, run_dir: Path, ckpt_path: Path | None) -> _Start:
    """Build the run, and check that it may go on; the checkpoint, as large as the network, is not held any longer."""
    checkpoint = None if ckpt_path is None else read_checkpoint(ckpt_path)
    split = _split_of(checkpoint, settings.raw, ckpt_path)
    parts = _parts(_as_trained(settings, checkpoint, ckpt_path), split, agreement)
    own = own_metrics(parts.algorithm)
    step = _check_resume(parts, settings.raw, checkpoint, run_dir=run_dir, ckpt_path=ckpt_path)
    changed = [] if checkpoint is None else changed_rows(checkpoint, settings)
    return _Start(parts=parts, step=step, changed=changed, own_metrics=own)


def _agreement(trainer: Mapping[str, Any]) -> Agreement:
    """Find out which process of the run this is, before anything is written, and any other setting is looked at."""
    for name in ("devices", "num_nodes"):
        check_number(f"trainer.{name}", trainer[name], low=1, integer=True)
    launch = find_launch(devices=trainer["devices"], num_nodes=trainer["num_nodes"])
    take_rank(launch)
    with section_of_errors("trainer", ["wait"]):
        return Agreement(launch, wait=trainer["wait"])


def _parts(settings: Settings, split: Split | None, agreement: Agreement) -> RunParts:
    """Return what the run is made of; the data are prepared by the first process of this machine."""
    with agreement.first_of_machine():
        if agreement.launch.local_rank > 0:
            settings = replace(settings, data=settings.data.unverified())
        parts = build_parts(settings, split=split, open_teacher=open_teacher)
        check_steps(settings, parts.algorithm.method)
        with settings.data.named_in_errors():
            algorithm, device = parts.algorithm, parts.device.of_rank(agreement.launch.local_rank)
            learn_from_features(algorithm.network, algorithm.ema.network, algorithm.method, parts.data, device=device)
    return parts


def _as_trained(settings: Settings, checkpoint: dict[str, Any] | None, ckpt_path: Path | None) -> Settings:
    """Return what a run is made with: where it goes on, pretrained weights of the checkpoint are not fetched again."""
    if checkpoint is None or ckpt_path is None:
        return settings
    return Settings.parse(as_trained(settings.raw, checkpoint, path=ckpt_path, plugins=settings.plugins))


def _check_run_dir(run_dir: Path, ckpt_path: Path | None, *, starts_again: bool) -> None:
    """Refuse a directory that holds another run, or files that a run would overwrite."""
    if not is_rank_zero():
        return
    if os.path.lexists(run_dir) and not is_folder(run_dir):
        raise UserError(f"run_dir={run_dir} is a file: give a directory")
    make_run_dir(run_dir, keep=False)  # before pictures are read and caches are made
    if is_checkpoint_of(run_dir, ckpt_path) or (starts_again and is_left_over(run_dir)):
        return
    there = outputs_in(run_dir)
    if there:
        kind = "a finished run" if layout.RESULTS in there else "a run or files of the same names"
        advice = "" if starts_again else ", or ckpt_path=auto to go on"
        raise UserError(f"run_dir={run_dir} already holds {kind} ({', '.join(there)}): give another run_dir{advice}")


def _locked(run_dir: Path) -> AbstractContextManager[None]:
    """Keep the directory to this run, of whose processes the first one locks it."""
    return lock_run_dir(run_dir) if is_rank_zero() else nullcontext()


def _split_of(checkpoint: dict[str, Any] | None, settings: dict[str, Any], ckpt_path: Path | None) -> Split | None:
    """Return the split that a run goes on with; None where it is drawn."""
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
    """Return the step that the run starts at."""
    if checkpoint is None or ckpt_path is None:
        return 0
    # One that was stopped between its last step and its results has its evaluation left.
    is_finished = not is_checkpoint_of(run_dir, ckpt_path) or (run_dir / layout.RESULTS).exists()
    return check_resume(
        parts,
        settings,
        checkpoint=checkpoint,
        path=ckpt_path,
        folder=run_dir / layout.CHECKPOINTS,
        is_finished=is_finished,
    )


def _callbacks(settings: Settings, parts: RunParts, run_dir: Path) -> list[Callback]:
    checkpoint = settings.checkpoint
    return [
        Provenance(settings=settings.raw, classes=parts.data.classes, split=parts.data.split),
        FeatureClustering(eval_every=settings.eval_every),
        CostMonitor(),
        CheckpointWriter(
            run_dir / layout.CHECKPOINTS,
            every_n_steps=checkpoint.every_n_steps,
            keep=checkpoint.keep,
            track_best=checkpoint.selection == "best_val",
        ),
    ]


def _dashboard_callbacks(loggers: list[Logger], parts: RunParts) -> list[Callback]:
    """Show pictures at every evaluation, and keep the W&B run's id in checkpoints, beside what Provenance writes."""
    shown = dashboards.dashboards_of(loggers)
    if not shown:
        return []
    data = parts.data
    keepers: list[Callback] = [
        KeepRunId(dashboard) for dashboard in shown if isinstance(dashboard, dashboards.WandbDashboard)
    ]
    if data.features is not None:  # which are no pictures
        return keepers
    return [Panels(shown, classes=data.classes, mean=data.mean, std=data.std), *keepers]


@rank_zero_only
def _start_run_dir(run_dir: Path, settings: Settings, start: _Start) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    keep_config(run_dir, settings.raw, step=start.step)
    replace_text(run_dir / layout.CONFIG, yaml.safe_dump(settings.raw, sort_keys=False))
    start.parts.data.save_split(run_dir / layout.SPLIT)
    if start.own_metrics:
        replace_text(run_dir / layout.OWN_METRICS, dumps(start.own_metrics))
    else:
        (run_dir / layout.OWN_METRICS).unlink(missing_ok=True)  # of a run that goes on with another method
    if settings.figures:
        draw_pairs(start.parts.data, run_dir / layout.FIGURES / layout.VIEWS)


# ------------------------------------------------------------------------------------------------------ command line


def _train(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """Return one job of the command line: its run directory and results."""
    hydra_config = HydraConfig.get()
    in_sweep, sweep = hydra_config.mode == RunMode.MULTIRUN, os.environ.get(SWEEP_VARIABLE, "")
    is_elsewhere = False
    settings = _settings_of(config)
    run_dir = _run_dir_of(settings)
    if in_sweep:
        sweep = expand("run_dir", settings["run_dir"], "a directory").name
        is_elsewhere = is_started_elsewhere(hydra_config)
        # What a job elsewhere finds in its directory is its own, from before it was queued again.
        if goes_on(settings["ckpt_path"]) or (is_elsewhere and settings["ckpt_path"] is None):
            settings["ckpt_path"] = "auto"
    if in_sweep and (is_elsewhere or settings["trainer"]["devices"] != 1):
        finished = _finished(settings, run_dir)
        if finished is not None:
            return run_dir, finished
        trainer = settings["trainer"]
        is_on_gpus = trainer["accelerator"] in {"auto", "gpu"} and isinstance(trainer["devices"], int)
        num_gpus = trainer["devices"] if is_on_gpus else 0
        return run_dir, run_in_own_process(run_dir, sweep=sweep, ckpt_path=settings["ckpt_path"], num_gpus=num_gpus)
    is_new = is_timed(config) and not in_sweep
    with _agreement(settings["trainer"]) as agreement:
        decided = agreement.decide(lambda: _decide(settings, run_dir, is_timed=is_new))
        run_dir = Path(decided["run_dir"])
        if decided["finished"] is not None:
            return run_dir, decided["finished"]
        settings["run_dir"] = str(run_dir)
        ckpt_path = None if decided["ckpt_path"] is None else Path(decided["ckpt_path"])
        overrides = list(hydra_config.overrides.task)
        with quiet_libraries():
            results = run(
                Settings.parse(settings),
                run_dir=run_dir,
                ckpt_path=ckpt_path,
                overrides=overrides,
                sweep=sweep,
                agreement=agreement,
            )
    return run_dir, results


def _decide(settings: dict[str, Any], run_dir: Path, *, is_timed: bool) -> dict[str, Any]:
    """Decide what the first process alone looks at: where the run is, what it goes on from, whether it is finished."""
    finished = _finished(settings, run_dir)
    if finished is not None:
        return {"run_dir": str(run_dir), "ckpt_path": None, "finished": finished}
    run_dir, ckpt_path = resolve_checkpoint(settings["ckpt_path"], run_dir, is_timed=is_timed)
    return {"run_dir": str(run_dir), "ckpt_path": None if ckpt_path is None else str(ckpt_path), "finished": None}


def _finished(settings: dict[str, Any], run_dir: Path) -> dict[str, Any] | None:
    """Return the results of a run that has nothing left to do; None for any other."""
    finished = finished_results(run_dir, settings) if settings["ckpt_path"] == "auto" else None
    if finished is not None:
        Reporter().show(f"{run_dir} is finished, {finished['steps']} steps: nothing to do")
    return finished


def _settings_of(config: DictConfig) -> dict[str, Any]:
    """Return the settings; with whole paths, where Hydra has changed the working directory."""
    settings, base = plain(config), Path(HydraConfig.get().runtime.cwd)
    check_sections(settings)
    return settings if Path.cwd() == base else absolute_paths(settings, base=base)


def _run_dir_of(settings: dict[str, Any]) -> Path:
    """Return the run directory of a job: the sweep's directory holds those of its jobs."""
    hydra_config = HydraConfig.get()
    run_dir = expand("run_dir", settings["run_dir"], "a directory")
    return run_dir / str(hydra_config.sweep.subdir) if hydra_config.mode == RunMode.MULTIRUN else run_dir


def _check_no_search() -> None:
    """Refuse a search that would be one run, as its values are not looked at."""
    sought = HydraConfig.get().runtime.choices.get("hparams_search", "none")
    if sought != "none":
        raise UserError(f"hparams_search={sought} is not legal without -m: give -m, or hparams_search=none for one run")


def main() -> None:
    """Run the command line."""
    sweep = Sweep(_train)

    def job(config: DictConfig) -> float | None:
        """Give a sweeper the validation accuracy of the EMA weights."""
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            _check_no_search()
            _train(config)
            return None
        results = sweep.run(config, run_dir=_run_dir_of(_settings_of(config)))
        if results is None:
            return float("nan")
        objective = VAL_ACCURACY_EMA.read(results)
        return None if objective is None else float(objective)

    try:
        run_app(job, "run")
    except SystemExit as ended:
        if sweep.jobs and ended.code == UserError.status:  # a combination that has no configuration, said already
            sweep.end()
        raise
    except Exception as error:
        if not sweep.has_jobs_elsewhere:
            raise
        sweep.end(broken=f"{type(error).__name__}: {explain(error)}")
    sweep.end()


if __name__ == "__main__":
    main()
