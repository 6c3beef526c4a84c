"""Sweeps: checked before anything is written, job after job whatever becomes of one, and told at the end.

A sweep's jobs are taken one by one, so that processes on several machines may share them; see
:mod:`layermatch.runs.claims`. Under a launcher of Hydra's that starts jobs elsewhere, each job is a process of its own
there: what ends that process ends no other job.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from layermatch.auto_resume import check_same_run
from layermatch.cli import explain, is_timed, one_line_errors, plain, shows_tracebacks
from layermatch.command_line import quoted
from layermatch.console import Reporter, table
from layermatch.device_places import own_gpus, visible_gpus
from layermatch.errors import RunError, StoppedError, UserError
from layermatch.launch import find_launch
from layermatch.passed_signals import pass_to_runs_below, run_and_pass_signals, take_away_the_mark, was_asked_to_stop
from layermatch.paths import expand
from layermatch.results import sweep_rows
from layermatch.runs.claims import FAILED, FINISHED, RUNNING, STOPPED, Claim, Holder, ended_in, holder_of, take
from layermatch.runs.directory import make_run_dir
from layermatch.runs.identity import differing
from layermatch.runs.layout import CLAIMS, RESULTS, outputs_in
from layermatch.runs.reading import read_results
from layermatch.runs.settings import flatten
from layermatch.search import JOURNAL

__all__ = ["SWEEP_VARIABLE", "BeforeSweep", "Sweep", "goes_on", "is_started_elsewhere", "run_in_own_process"]

#: The variable that tells a sweep's job in a process of its own the sweep's name.
SWEEP_VARIABLE = "LAYERMATCH_SWEEP"

#: The variable that tells the first process of a sweep whose jobs are started elsewhere what its directory is: its own
#: number, by which those that it starts know that they are not meant, and the path.
JOBS_ARE_IN = "LAYERMATCH_JOBS_ARE_IN"

HEADER = ("run directory", "algorithm", "labels", "seed", "test, EMA", "val, EMA", "ended")


def goes_on(ckpt_path: object) -> bool:
    """Say whether a sweep goes on with what is there: its finished jobs stay, others go on, and missing ones start."""
    return isinstance(ckpt_path, str) and ckpt_path in {"last", "auto"}


def is_started_elsewhere(config: Any) -> bool:
    """Say whether a launcher starts a sweep's jobs in other processes.

    Args:
        config: The section ``hydra``.
    """
    return not str(config.launcher._target_).endswith(f".{BasicLauncher.__name__}")


# ----------------------------------------------------------------------------------------------------------- before


class BeforeSweep(Callback):
    """Refuses a sweep before Hydra writes ``multirun.yaml``: what an earlier sweep left stays as it is."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002 -- Hydra's
        """Compose every job and look at its directory; end the process with one line where a job cannot be."""
        try:
            with one_line_errors():
                sweep_dir = _check_sweep(config)
                if is_started_elsewhere(config.hydra):
                    os.environ[JOBS_ARE_IN] = f"{os.getpid()}:{sweep_dir}"
                    pass_to_runs_below(sweep_dir / CLAIMS)
        except Exception:  # noqa: BLE001 -- Hydra would make a warning of it, and go on
            traceback.print_exc()
            sys.exit(UserError.status)


def _check_sweep(config: DictConfig) -> Path:
    # NOTE: config.run_dir itself may be missing, or differ from job to job; the sweep's own is Hydra's.
    sweep_dir = expand("run_dir", OmegaConf.select(config, "run_dir"), "a directory")
    given = OmegaConf.select(config, "ckpt_path")
    if goes_on(given) and is_timed(config):
        raise UserError(
            f"ckpt_path={given} needs a run_dir that is the same each time: give run_dir=DIR, for the first time too"
        )
    make_run_dir(sweep_dir, keep=False)
    jobs = _jobs(config)
    if not goes_on(given):
        there = [run_dir.name for run_dir, _ in jobs if outputs_in(run_dir)]
        if there:
            raise UserError(
                f"run_dir={sweep_dir} already holds jobs of a sweep ({', '.join(there[:5])}"
                f"{', ...' if len(there) > 5 else ''}): give another run_dir, or ckpt_path=auto to go on"
            )
        return sweep_dir
    swept = set(differing([flatten(settings) for _, settings in jobs])) - {"run_dir"}
    for run_dir, settings in jobs:
        check_same_run(run_dir, settings, swept=swept)
    return sweep_dir


def _jobs(config: DictConfig) -> list[tuple[Path, dict[str, Any]]]:
    """List directory and settings of every job; without settings, what is there, where a sweeper chooses later."""
    if not str(config.hydra.sweeper._target_).endswith(f".{BasicSweeper.__name__}"):
        sweep_dir = expand("run_dir", config.run_dir, "a directory")
        return [(path, {}) for path in sorted(sweep_dir.glob("*/")) if path.name.isdigit()]
    loader = GlobalHydra.instance().config_loader()
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    words += OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # type: ignore[arg-type]
    batches = BasicSweeper.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides(words), None)
    jobs = []
    for number, overrides in enumerate(batches[0]):
        composed = loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num = composed.hydra.job.id = number
            subdir = str(OmegaConf.select(composed, "hydra.sweep.subdir"))
            del composed["hydra"]
        settings = plain(composed)
        jobs.append((expand("run_dir", settings["run_dir"], "a directory") / subdir, settings))
    return jobs


# ------------------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        run_dir: The directory of the job.
        results: The content of its ``results.json``; None without.
        status: The status that a run of its own would have ended with.
        why: The reason why it was not finished, in one line; empty for a job that was finished.
        is_elsewhere: Whether another process has it, and it has not ended.
        requeue_by: A signal whose sender queues the job again when it comes.
    """

    run_dir: Path
    results: dict[str, Any] | None
    status: int = 0
    why: str = ""
    is_elsewhere: bool = False
    requeue_by: int | None = None

    @property
    def state(self) -> str:
        """What the job is, in the words of :mod:`layermatch.runs.claims`."""
        if self.is_elsewhere:
            return RUNNING
        return {0: FINISHED, StoppedError.status: STOPPED}.get(self.status, FAILED)


class Sweep:
    """The jobs of a sweep: one that fails does not end the others, and all are told of at the end.

    Args:
        train: A function that runs one job.
    """

    def __init__(self, train: Callable[[DictConfig], tuple[Path, dict[str, Any]]]) -> None:
        self.train = train
        self.jobs: list[Ended] = []

    def run(self, config: DictConfig, *, run_dir: Path) -> dict[str, Any] | None:
        """Run one job.

        Args:
            config: The composed configuration.
            run_dir: The directory of the job.

        Returns:
            The results of the job; None where it failed, or another process has it.

        Raises:
            SystemExit: The job was asked to stop, and so is the sweep.
        """
        elsewhere = is_started_elsewhere(HydraConfig.get())
        if elsewhere and was_asked_to_stop(run_dir.parent / CLAIMS):
            return None
        claim = None
        if _is_first(config):  # a launcher's other processes come with their first one
            make_run_dir(run_dir.parent)
            claim = take(run_dir)
            if claim is None:
                self._note(Ended(run_dir, None, is_elsewhere=True))
                return None
        ended = self._ended(config, run_dir, claim)
        self._note(ended)
        if ended.state == STOPPED:
            if ended.requeue_by is not None:
                signal.raise_signal(ended.requeue_by)  # whoever requeues jobs has not seen it yet
            if not elsewhere:
                self.end(stopped=ended)
        return ended.results

    def _note(self, ended: Ended) -> None:
        self.jobs.append(ended)

    def _ended(self, config: DictConfig, run_dir: Path, claim: Claim | None) -> Ended:
        """Run a job that is this process's, and say so when it has ended."""
        ended = Ended(run_dir, None, StoppedError.status, "ended by an error of Python's")
        try:
            ended = self._trained(config, run_dir)
        finally:
            if claim is not None:
                claim.release(ended.state, status=ended.status, why=ended.why)
        return ended

    def _trained(self, config: DictConfig, run_dir: Path) -> Ended:
        try:
            _, results = self.train(config)
        except StoppedError as error:
            return Ended(run_dir, None, error.status, str(error), requeue_by=error.requeue_by)
        except Exception as error:  # noqa: BLE001 -- whatever ends one job, the others have no part in it
            return self._failed(run_dir, error)
        return Ended(run_dir, results)

    def _failed(self, run_dir: Path, error: Exception) -> Ended:
        is_explained = isinstance(error, UserError | RunError | HydraException | OmegaConfBaseException)
        status = error.status if isinstance(error, RunError) else UserError.status if is_explained else 1
        why = explain(error) if is_explained else f"{type(error).__name__}: {explain(error)}"
        if not is_explained or shows_tracebacks():
            traceback.print_exc()
        sys.stderr.write(f"error: {run_dir}: {why}\n")
        return Ended(run_dir, None, status, why)

    def end(self, *, stopped: Ended | None = None, broken: str = "") -> None:
        """Show all jobs, and end the process with a status that is not 0 where one failed.

        Args:
            stopped: The job that was stopped, and the sweep with it.
            broken: What ended a launcher before its jobs; empty where nothing did.

        Raises:
            SystemExit: A job failed, or the sweep was stopped.
        """
        sweep_dir = _sweep_dir_of_jobs_elsewhere()
        os.environ.pop(JOBS_ARE_IN, None)
        if sweep_dir is None:
            jobs = [_read(job.run_dir, holder_of(job.run_dir)) if job.is_elsewhere else job for job in self.jobs]
        else:
            jobs = [_read(*job) for job in ended_in(sweep_dir).items()]
        if len(jobs) > 1:
            Reporter().show(table("Sweep", [_row(job) for job in jobs], header=HEADER))
        if broken:
            sys.stderr.write(f"error: the launcher of the jobs has ended: {broken}\n")
        elsewhere = [job for job in jobs if job.is_elsewhere]
        if elsewhere:
            Reporter().show(
                f"{len(elsewhere)} of {len(jobs)} jobs are at work in other processes: what those leave is taken up by "
                "the same command and ckpt_path=auto"
            )
        stopped = stopped or next((job for job in jobs if job.state == STOPPED), None)
        if sweep_dir is not None and take_away_the_mark(sweep_dir / CLAIMS) and stopped is None:
            stopped = Ended(sweep_dir, None, StoppedError.status, "stopped before all jobs had begun")
        failed = [job for job in jobs if job.state == FAILED]
        if stopped is not None:
            sys.stderr.write(f"{stopped.why}\nthe sweep goes on with the same command and ckpt_path=auto\n")
            sys.exit(stopped.status)
        if failed:
            names = ", ".join(str(job.run_dir) for job in failed)
            is_search = (failed[0].run_dir.parent / JOURNAL).is_file()
            again = (
                "the search has them as failed, and does not try them again"
                if is_search
                else "to try them again, give the same command and ckpt_path=auto"
            )
            sys.stderr.write(f"error: {len(failed)} of {len(jobs)} jobs failed: {names}: {again}\n")
            statuses = {job.status for job in failed}
            sys.exit(statuses.pop() if len(statuses) == 1 else 1)
        if broken:
            sys.exit(1)

    @property
    def has_jobs_elsewhere(self) -> bool:
        """Whether this is the first process of a sweep whose jobs are started elsewhere."""
        return _sweep_dir_of_jobs_elsewhere() is not None


def _sweep_dir_of_jobs_elsewhere() -> Path | None:
    """Return the directory of the sweep that this process has begun, where its jobs are started elsewhere."""
    pid, _, sweep_dir = os.environ.get(JOBS_ARE_IN, "").partition(":")
    return Path(sweep_dir) if pid == str(os.getpid()) else None


def _is_first(config: DictConfig) -> bool:
    """Say whether this process is the first one of its job; where that cannot be told, the job itself says why."""
    try:
        return find_launch(devices=config.trainer.devices, num_nodes=config.trainer.num_nodes).rank == 0
    except (UserError, OmegaConfBaseException, TypeError):
        return True


def _read(run_dir: Path, holder: Holder | None) -> Ended:
    """Return how a job ended that another process has run."""
    if holder is None or holder.is_at_work():
        return Ended(run_dir, None, 0, f"{holder} has it", is_elsewhere=True)
    if holder.state == RUNNING:
        return Ended(run_dir, None, 1, f"{holder} was killed")
    if holder.state == FINISHED:
        try:
            return Ended(run_dir, read_results(run_dir / RESULTS))
        except (OSError, ValueError) as error:
            return Ended(run_dir, None, 1, f"{RESULTS}: {error}")
    return Ended(run_dir, None, holder.status or 1, holder.why)


def _row(job: Ended) -> tuple[str, ...]:
    if job.results is None:
        return (str(job.run_dir), *("-",) * (len(HEADER) - 2), f"{job.state}: {job.why}")
    return (*sweep_rows([(job.run_dir, job.results)])[0], FINISHED)


def run_in_own_process(run_dir: Path, *, sweep: str, ckpt_path: object, num_gpus: int = 0) -> dict[str, Any]:
    """Return a sweep's job on several devices, or of a launcher that starts jobs elsewhere.

    Lightning starts the other ranks by running the command line again; with ``-m`` in it each rank would start a sweep
    of its own, and all would wait for each other. A process without ``-m`` per job has neither problem.

    Args:
        run_dir: The directory of the job.
        sweep: The name of the sweep.
        ckpt_path: The checkpoint that the job goes on from.
        num_gpus: The GPUs that the job computes on, if there are so many.

    Returns:
        The content of the job's ``results.json``.

    Raises:
        StoppedError: The job was asked to stop.
        RunError: The job ended with another status that is not 0.
    """
    hydra_config = HydraConfig.get()
    command = [sys.executable, "-m", "layermatch.run", *_words_of_job(hydra_config), f"run_dir={quoted(str(run_dir))}"]
    if ckpt_path is not None:
        command.append(f"ckpt_path={quoted(str(ckpt_path))}")
    environment = os.environ | {SWEEP_VARIABLE: sweep}
    # Where the command was given: hydra.job.chdir would make other files of its relative paths.
    here = hydra_config.runtime.cwd
    with own_gpus(run_dir.parent / CLAIMS, _gpus(hydra_config, environment), count=num_gpus) as place:
        status, requeue_by = run_and_pass_signals(command, env=environment | place, cwd=here)
    if status == StoppedError.status:
        stopped = StoppedError(f"the job in {run_dir} was stopped: see its line above")
        stopped.requeue_by = requeue_by
        raise stopped
    if status:
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        error = RunError(f"{how}: see its lines above")
        error.status = status if status > 0 else 1  # a signal's number is negative
        raise error
    return read_results(run_dir / RESULTS)


def _gpus(hydra_config: Any, environment: Mapping[str, str]) -> list[str]:
    """List the GPUs that jobs are spread over: joblib leaves that to them, submitit does it."""
    is_joblib = str(hydra_config.launcher._target_).endswith(".JoblibLauncher")
    return visible_gpus(environment) if is_joblib else []


def _words_of_job(hydra_config: Any) -> Sequence[str]:
    folders = [source.path for source in hydra_config.runtime.config_sources if source.provider == "command-line"]
    words = ["--config-name", hydra_config.job.config_name, *hydra_config.overrides.task]
    words += [word for word in hydra_config.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]
    for folder in folders:
        words += ["--config-dir", folder]
    return words
