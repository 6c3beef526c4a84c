"""Weights & Biases: a run that is complete offline, and that no server can stop."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from layermatch.catalogue import Catalogue, Kind, Place
from layermatch.checkpoints import CHECKPOINT_KEY, read_checkpoint
from layermatch.dashboards.base import About, Dashboard
from layermatch.dashboards.naming import curve_name, run_group, run_name, run_tags
from layermatch.dashboards.pictures import class_accuracies
from layermatch.dashboards.reachable import why_unreachable
from layermatch.errors import UserError
from layermatch.metrics import CATALOGUE, CLASS_ACCURACY, CONFUSION, OBJECTIVE, VAL_ACCURACY_EMA
from layermatch.runs.layout import BEST_CHECKPOINT, CHECKPOINTS, STEP_CHECKPOINTS, WANDB, is_checkpoint_of
from layermatch.runs.settings import flatten

if TYPE_CHECKING:
    from wandb import Run

__all__ = ["CHECKPOINT_CHOICES", "RUN_ID", "WandbDashboard", "continued_run", "server_address"]

_log = logging.getLogger(__name__)

#: The axis of every curve: optimizer steps, under Lightning's name.
STEP = "trainer/global_step"

#: Bytes of a record that has nothing but W&B's mark.
EMPTY_RECORD = 7

#: The key under which a checkpoint's section of this package keeps the id of its W&B run.
RUN_ID = "wandb_run"

#: Which checkpoint becomes an artifact, and the files that it may be.
CHECKPOINT_CHOICES = {"last": STEP_CHECKPOINTS, "best": BEST_CHECKPOINT}


class WandbDashboard(WandbLogger, Dashboard):
    """Lightning's WandbLogger, for which no fault of W&B is a fault of the run.

    * A server that cannot be reached, or that refuses the run, makes it an offline run.
    * What W&B raises later is reported once and training goes on; where W&B's own process has died, so does the record,
      in a second offline file of the same run.
    * The end waits for ``timeout`` seconds at most, and for three more where the server has gone. Everything is on disk
      by then: ``wandb sync`` sends the rest.

    W&B's steps are optimizer steps, so that a resumed run, and files that are synced one after the other, make one
    curve: W&B leaves out steps that it has.

    Args:
        run_dir: The run directory; the files are in ``wandb`` there.
        project: The W&B project.
        entity: The W&B user or team; None is the key's own.
        group: The group of the run: those of one group are shown together; None groups the seeds of one setting.
        tags: The tags of the run beside the experiment, the algorithm and the sweep.
        offline: Whether no server is asked at all.
        log_checkpoint: The checkpoint that becomes an artifact at the end: ``last``, ``best`` or None.
        timeout: The seconds that W&B may take to start online, and again to send what is left at the end.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        log_checkpoint: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(save_dir=run_dir, project=project)
        self.run_dir = run_dir
        self.entity = entity
        self.group = group
        self.tags = tuple(tags)
        self.goes_offline = offline
        self.log_checkpoint = log_checkpoint
        self.timeout = timeout
        self._about: About | None = None
        self._defined: set[str] = set()
        self._row_step: int | None = None
        self._row_names: set[str] = set()
        self._was_online = self._has_restarted = self._has_reported = self._is_over = False

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse to log a best checkpoint that nobody chooses."""
        if self.log_checkpoint == "best" and settings["checkpoint"]["selection"] != "best_val":
            raise UserError("logger.log_checkpoint=best needs checkpoint.selection=best_val, which keeps the best one")

    # -------------------------------------------------------------------------------------------------------- start

    @property
    @rank_zero_experiment
    def experiment(self) -> Run:
        """The W&B run, started when it is first asked for; where it cannot be, or has ended, one that does nothing."""
        if self._experiment is None and not self._is_over:
            try:
                self._experiment = self._start()
            except Exception as error:  # noqa: BLE001 -- there is no list of what W&B raises
                self._is_over = True
                _log.warning("W&B: it did not start (%s); metrics.csv has every number", _words(error))
        return cast("Run", DummyLogger().experiment if self._experiment is None else self._experiment)

    @rank_zero_only
    def begin(self, about: About) -> None:
        """Start the run, or continue that of ``about.run_id``; see :class:`Dashboard`."""
        self._about = about
        self._id = about.run_id
        _ = self.experiment

    def _start(self) -> Run:
        """Start the run, online where that works, else offline."""
        import wandb

        server_address()  # before all else, see there
        if not self._id:
            self._id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(6)
        _delete_empty_records(self.run_dir)
        run = None if self.goes_offline else self._start_online()
        if run is None:
            run = wandb.init(mode="offline", **self._arguments())
        run.define_metric(STEP)
        self._defined = set()
        return run

    @property
    def _catalogue(self) -> Catalogue:
        return CATALOGUE if self._about is None else self._about.catalogue

    def _define(self, run: Run, names: Iterable[str]) -> None:
        """Say what the axis and the summary of new curves are.

        One by one: of two patterns that match a name (``*`` and ``loss/*``), W&B takes one at random.
        """
        catalogue = self._catalogue
        for name in set(names) - self._defined:
            kind = catalogue.find(name).kind
            # The figures to report are those of `test/*`, of the weights that `test/selection` names.
            summary = ",".join(kind.over_run) if _has_own_summary(kind) else None
            run.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)
            self._defined.add(name)

    def _start_online(self) -> Run | None:
        import wandb

        url = server_address()
        fault = why_unreachable(url)
        if fault is None:
            try:
                run = wandb.init(mode="online", **self._arguments())
                self._was_online = True
                return run
            except Exception as error:  # noqa: BLE001 -- there is no list of what W&B raises
                fault = _words(error)
                _end_process()  # which keeps the id of the run that failed to itself
        _log.warning("W&B: no run at %s (%s): the run is kept offline, %s", url, fault, self._sync_later())
        self.goes_offline = True
        return None

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of ``wandb.init``."""
        import wandb

        settings = wandb.Settings(init_timeout=self.timeout, finish_timeout=self.timeout, finish_timeout_raises=True)
        given = {"dir": str(self.run_dir), "resume": "allow", "settings": settings, **self._description()}
        if "WANDB_SWEEP_ID" in os.environ:  # its agent has chosen these
            return given
        return given | {"project": self._project, "entity": self.entity, "id": self._id}

    def _description(self) -> dict[str, Any]:
        about = self._about
        if about is None:  # used without `begin`, as any Lightning logger
            return {"group": self.group, "tags": run_tags(*self.tags)}
        sweep = f"sweep {about.sweep}" if about.sweep else ""
        return {
            "config": flatten(about.settings),
            "group": self.group or run_group(about.settings),
            "job_type": about.algorithm,
            "name": run_name(about.algorithm, about.changes, seed=about.settings["seed"]),
            "tags": run_tags(about.experiment, about.algorithm, sweep, *self.tags),
        }

    # ------------------------------------------------------------------------------------------------------- content

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send one row of curves.

        What a step's row has stays: at the end the chosen weights are evaluated once more, and their accuracies, which
        the summary has, are no points of the curve of the last step.
        """
        metrics = {curve_name(name): value for name, value in metrics.items()}
        if step is not None:
            if step != self._row_step:
                self._row_step, self._row_names = step, set()
            metrics = {name: value for name, value in metrics.items() if name not in self._row_names}
            self._row_names |= set(metrics)
        if metrics:
            self._safely(lambda run: self._log_numbers(run, metrics, step))

    def _log_numbers(self, run: Run, metrics: Mapping[str, float], step: int | None) -> None:
        self._define(run, metrics)
        run.log(_row(metrics, step), step=step)

    @rank_zero_only
    def show_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int, caption: str = "") -> None:
        """Show a picture; see :class:`Dashboard`."""
        import wandb

        self._safely(lambda run: run.log(_row({name: wandb.Image(pixels, caption=caption or None)}, step), step=step))

    @rank_zero_only
    def show_results(self, results: Mapping[str, Any]) -> None:
        """Send the final figures with their selection rule, class by class, and the checkpoint if it is asked for."""
        self._leave_dead_server()
        self._safely(lambda run: run.summary.update(_summary(results, self._catalogue)))
        with _staged_in(self.run_dir):
            self._safely(lambda run: self._log_charts(run, results))
            if self.log_checkpoint:
                self._safely(lambda run: self._send_checkpoint(run, results))

    def _log_charts(self, run: Run, results: Mapping[str, Any]) -> None:
        # In a second file this is a row of its own: W&B drops a row of a step that it has from the first.
        has_left = self._was_online and self.goes_offline
        run.log(_row(_charts(results), results["steps"]), step=results["steps"] + has_left)

    def _send_checkpoint(self, run: Run, results: Mapping[str, Any]) -> None:
        import wandb

        kind = str(self.log_checkpoint)
        found = sorted((self.run_dir / CHECKPOINTS).glob(CHECKPOINT_CHOICES[kind]))
        if not found:
            _log.warning("W&B: there is no checkpoint to log in %s", self.run_dir / CHECKPOINTS)
            return
        metadata = {name: results[name] for name in ("algorithm", "experiment", "seed", "steps", "test")}
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
        # Not copied: a checkpoint is never changed once it is written.
        artifact.add_file(str(found[-1].resolve()), policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=[kind])

    # ------------------------------------------------------------------------------------------------------- faults

    def _safely(self, action: Callable[[Run], Any]) -> None:
        """Do something with the run; whatever W&B raises, training goes on."""
        run = self.experiment
        if self._is_over:
            return
        try:
            action(run)
        except Exception as error:  # noqa: BLE001 -- there is no list of what W&B raises
            if not _answers(run):
                self._restart(error)
                self._safely(action)
            elif not self._has_reported:
                self._has_reported = True
                _log.warning("W&B: something was not logged (%s); metrics.csv has every number", _words(error))

    def _restart(self, error: Exception) -> None:
        """Go on in another offline file of the same run; the second time, give up."""
        _end_process()
        self._experiment = None
        self._is_over, self._has_restarted = self._has_restarted, True
        self.goes_offline = True
        rest = "nothing more goes to it" if self._is_over else f"the run goes on offline, {self._sync_later()}"
        _log.warning("W&B: it stopped (%s): %s; metrics.csv has every number", _words(error), rest)

    def _leave_dead_server(self) -> None:
        """Put the results into an offline file where the server has gone: W&B would wait for it with each table."""
        if self.goes_offline or self._experiment is None:
            return
        fault = why_unreachable(server_address())
        if fault is None:
            return
        _log.warning("W&B: the server has gone (%s): the rest is kept offline, %s", fault, self._sync_later())
        self.goes_offline = True
        run, self._experiment = self._experiment, None
        with suppress(Exception):  # that not everything was sent has been said
            run.finish(exit_code=0)

    def _sync_later(self) -> str:
        # Part of the run may be in files of an online run, which `wandb sync` leaves out unless it is told to.
        option = "--include-online " if self._was_online else ""
        return f"`wandb sync {option}{self.run_dir}/wandb/*run-*-{self._id}` sends it later"

    # ---------------------------------------------------------------------------------------------------------- end

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        """Send what is left, for ``timeout`` seconds at most, and end the run."""
        run, self._experiment = self._experiment, None
        self._is_over = True
        if run is None:
            return
        try:
            run.finish(exit_code=int(failed))
        except TimeoutError:
            _log.warning("W&B: not everything was sent within %g s: %s", self.timeout, self._sync_later())
        except Exception as error:  # noqa: BLE001 -- there is no list of what W&B raises
            _log.warning("W&B: it did not end well (%s); metrics.csv has every number", _words(error))
            _end_process()  # so that the next run of a sweep has one of its own


def _answers(run: Run) -> bool:
    """Return whether W&B's own process, which writes the run's files and talks to its server, is alive."""
    try:
        run.status()
    except Exception:  # noqa: BLE001 -- there is no list of what W&B raises
        return False
    return True


def _delete_empty_records(run_dir: Path) -> None:
    """Delete what W&B left where it was killed before it first wrote, as ``wandb sync`` stops at such a file.

    W&B writes every 15 seconds. The pictures beside the file belong to rows that it never wrote.
    """
    for record in (run_dir / WANDB).glob("*run-*/run-*.wandb"):
        if record.stat().st_size <= EMPTY_RECORD:
            shutil.rmtree(record.parent, ignore_errors=True)


def _end_process() -> None:
    """End W&B's own process, or forget it where it has died. The next run starts another."""
    import wandb

    with suppress(Exception):  # it only says again that it has died
        wandb.teardown()


def server_address() -> str:
    """Return where W&B's server is, as W&B's own settings say.

    W&B reads its environment when it is first asked for its settings, so that all here ask through this function.

    Raises:
        UserError: W&B does not take what it finds there.
    """
    # Reports on W&B's own errors wait at exit, up to half a minute, for a server that does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    try:
        return str(wandb.setup().settings.base_url)
    except (ValueError, wandb.errors.Error) as error:
        raise UserError(_explain_settings(error)) from error


def _explain_settings(error: Exception) -> str:
    """Return one line for what W&B's settings refuse: a variable, or a line in one of its files."""
    found = error.errors()[0] if hasattr(error, "errors") else None
    if not found or not found["loc"]:
        given = ", ".join(sorted(name for name in os.environ if name.startswith("WANDB_")))
        return f"W&B does not take its settings ({_words(error)}): correct or unset the wrong one of {given}"
    key, words = str(found["loc"][0]), _words(ValueError(found["msg"]))
    names = (f"WANDB_{key.upper()}", f"WANDB_{key.removeprefix('x').upper()}")
    name = next((name for name in names if name in os.environ), None)
    where, remedy = (name, f"unset {name}") if name else (f"{key} in W&B's settings", f"give {names[0]}")
    return f"{where}={found['input']!r} is not legal for W&B ({words}): correct it, or {remedy}"


@contextmanager
def _staged_in(run_dir: Path) -> Iterator[None]:
    """Keep W&B's copies of what it has yet to send in the run directory, not in the home directory."""
    before = os.environ.get("WANDB_DATA_DIR")
    if before is None:
        os.environ["WANDB_DATA_DIR"] = str(run_dir.resolve() / WANDB)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]


def _row(values: Mapping[str, Any], step: int | None) -> dict[str, Any]:
    return dict(values) if step is None else {**values, STEP: step}


def _has_own_summary(kind: Kind) -> bool:
    """Return whether W&B's summary of a curve is another than its last value: the lowest loss, the best accuracy."""
    return kind.over_run != ("last",)


def _summary(results: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return what the table of runs shows, beside what the curves' own summary has."""
    shown = {name: results[name] for name in ("num_labels", "steps", "seconds", "status") if name in results}
    for section in dict.fromkeys(metric.path[0] for metric in catalogue.in_place(Place.RESULTS)):
        figures = {f"{section}/{key}": value for key, value in (results.get(section) or {}).items()}
        shown |= {name: value for name, value in figures.items() if not _has_own_summary(catalogue.find(name).kind)}
    return shown


def _charts(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objective of sweeps, the confusion matrix, and the accuracy of each class."""
    import wandb

    charts: dict[str, Any] = {}
    objective = VAL_ACCURACY_EMA.read(results)
    if objective is not None:
        charts[OBJECTIVE.name] = objective  # one number, as a sweep reads no summary of several
    if not results.get("confusion"):
        return charts
    classes, counts = list(results["classes"]), np.asarray(results["confusion"])
    truth, predicted = (np.repeat(axis, counts.ravel()).tolist() for axis in np.indices(counts.shape).reshape(2, -1))
    charts[CONFUSION.name] = wandb.plot.confusion_matrix(
        y_true=truth, preds=predicted, class_names=classes, title=CONFUSION.title
    )
    rows = [list(row) for row in zip(classes, class_accuracies(counts.tolist()), strict=True)]
    table = wandb.Table(columns=["class", "accuracy"], data=rows)
    charts[CLASS_ACCURACY.name] = wandb.plot.bar(table, "class", "accuracy", title=CLASS_ACCURACY.title)
    return charts


def _words(error: BaseException) -> str:
    """Return an error in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def continued_run(loggers: Iterable[Logger], *, run_dir: Path, ckpt_path: Path | None) -> str | None:
    """Return the W&B run that a resumed run goes on with.

    Args:
        loggers: The loggers of the run.
        run_dir: The directory of the run.
        ckpt_path: The checkpoint that the run goes on from.

    Returns:
        Its id. None where there is none, and where the checkpoint is of another run directory: a branch is a run of its
        own.
    """
    if (
        ckpt_path is None
        or not is_checkpoint_of(run_dir, ckpt_path)
        or not any(isinstance(logger, WandbDashboard) for logger in loggers)
    ):
        return None
    run_id = read_checkpoint(ckpt_path)[CHECKPOINT_KEY].get(RUN_ID)
    return run_id if isinstance(run_id, str) else None
