"""What ``logger=csv|tensorboard|wandb|none`` stands for."""

from __future__ import annotations

import csv as csv_format
import io
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from layermatch.dashboards import CHECKPOINT_CHOICES, TensorBoardDashboard, WandbDashboard, server_address
from layermatch.dashboards.wandb_key import has_key
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_choice, check_number
from layermatch.files import replace_text
from layermatch.runs.layout import METRICS

__all__ = ["MetricsCsv", "csv", "none", "tensorboard", "wandb"]

_log = logging.getLogger(__name__)


class MetricsCsv(Logger):
    """``metrics.csv``: one row for each log line, whole at any time.

    Not Lightning's CSVLogger, which deletes the rows of the run that is resumed, and loses rows when it is killed while
    it adds a column. A disk that is full costs rows, and a warning; the run goes on.

    Args:
        run_dir: The directory in which ``metrics.csv`` is written.
        first_step: The step that the run starts at: rows of later steps belong to steps that will be made again, and
            are dropped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     logger = MetricsCsv(folder)
        ...     logger.log_metrics({"loss": 1.5}, step=1)
        ...     logger.path.read_text().split()
        ['step,loss', '1,1.5']
    """

    def __init__(self, run_dir: str | Path, *, first_step: int = 0) -> None:
        super().__init__()
        self.path = Path(run_dir) / METRICS
        self.first_step = first_step
        #: The columns; None until the file has been looked at, which only a run that logs does.
        self._columns: list[str] | None = None
        self._failed = False

    @property
    def name(self) -> str:
        """Lightning's name of a logger: there is none, as the file lies in the run directory itself."""
        return ""

    @property
    def version(self) -> str:
        """Lightning's version of a logger: there is none, as the file lies in the run directory itself."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: ``config.yaml`` has the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write one row."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        row = {"step": str(step)} | {name: repr(value) for name, value in finite.items()}
        try:
            self._write(row)
        except OSError as error:
            if not self._failed:
                _log.warning("%s cannot be written (%s): rows are lost, the run goes on", self.path, error.strerror)
            self._failed = True
            self._columns = None  # what is there must be looked at again

    def _write(self, row: dict[str, str]) -> None:
        if self._columns is None or not set(row) <= set(self._columns):
            rows = [*self._rows(), row]
            columns = list(dict.fromkeys(name for each in rows for name in each))
            self._replace(columns, rows)
            self._columns, self.first_step = columns, sys.maxsize
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv_format.DictWriter(file, self._columns).writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        """Return the rows that stay, without a last one that a kill cut short."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:  # a class may be named with any kind of line break
            whole, end, _ = file.read().rpartition("\n")
        rows = csv_format.DictReader(io.StringIO(whole + end, newline=""))
        filled = ({name: value for name, value in row.items() if value} for row in rows if None not in row.values())
        return [row for row in filled if row.get("step", "").isdigit() and int(row["step"]) <= self.first_step]

    def _replace(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv_format.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self.path, text.getvalue())


def csv(*, run_dir: Path, first_step: int) -> list[Logger]:
    """Write ``metrics.csv`` in the run directory."""
    return [MetricsCsv(run_dir, first_step=first_step)]


def none(*, run_dir: Path, first_step: int) -> list[Logger]:  # noqa: ARG001 -- every logger takes the same two
    """Log nothing."""
    return []


def tensorboard(*, run_dir: Path, first_step: int) -> list[Logger]:
    """Write ``metrics.csv``, and TensorBoard's event files, with settings, pictures and results.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        # What a resumed run makes again is not shown twice; metrics.csv drops the same rows.
        purged = first_step + 1 if first_step else None
        logger = TensorBoardDashboard(run_dir, name="", version="tensorboard", purge_step=purged)
    except ModuleNotFoundError as error:
        raise UserError("logger=tensorboard needs TensorBoard: pip install 'layermatch[tensorboard]'") from error
    return [*csv(run_dir=run_dir, first_step=first_step), logger]


def wandb(
    *,
    run_dir: Path,
    first_step: int,
    project: str = "layermatch",
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    offline: bool | str = "auto",
    log_checkpoint: bool | str = False,
    timeout: float = 30,
) -> list[Logger]:
    """Write ``metrics.csv``, and log to Weights & Biases; see :class:`~layermatch.dashboards.WandbDashboard`.

    Args:
        run_dir: The directory in which the run's files are kept.
        first_step: The step that the run starts at, above 0 where it is resumed.
        project: The W&B project.
        entity: The W&B user or team; None is the key's own.
        group: The group of the run: those of one group are shown together; None groups the seeds of one setting.
        tags: The tags of the run, beside its experiment, algorithm and sweep.
        offline: Whether no server is asked at all; ``auto`` goes offline where no API key is configured, and says so.
        log_checkpoint: The checkpoint that becomes an artifact at the end: ``last``, ``best`` or False.
        timeout: The seconds that W&B may take to start online, and again to send what is left at the end, 1 to 3600.

    Raises:
        UserError: A value is not legal, or one in W&B's own environment is not.
    """
    _check_text("project", project)
    for name, text in (("entity", entity), ("group", group)):
        if text is not None:
            _check_text(name, text)
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) and tag for tag in tags):
        raise UserError(f"tags={tags!r} is not legal: give a list of words, tags=[WORD]")
    if log_checkpoint is not False:
        check_choice("log_checkpoint", log_checkpoint, ("false", *CHECKPOINT_CHOICES))
    check_number("timeout", timeout, low=1, high=3600)
    if is_rank_zero():
        server_address()  # W&B would refuse what is wrong in its environment when the run has begun
    logger = WandbDashboard(
        run_dir,
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        offline=_goes_offline(offline, run_dir),
        log_checkpoint=str(log_checkpoint) if log_checkpoint in CHECKPOINT_CHOICES else None,
        timeout=timeout,
    )
    return [*csv(run_dir=run_dir, first_step=first_step), logger]


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise UserError(f"{name}={value!r} is not legal: give a name")


def _goes_offline(given: bool | str, run_dir: Path) -> bool:
    """Return what ``offline`` comes to here; says so where it was not asked for."""
    if not isinstance(given, bool):
        check_choice("offline", given, ("auto", "true", "false"))
    if given in {True, "true"} or not is_rank_zero():
        return True
    if given == "auto":
        mode = os.environ.get("WANDB_MODE")
        if mode in {"offline", "disabled", "dryrun"}:
            _log.warning("W&B: WANDB_MODE=%s: the run is kept offline, `wandb sync` it from %s/wandb", mode, run_dir)
            return True
        if not has_key():
            _log.warning(
                "W&B: no API key is configured: the run is kept offline, `wandb sync` it from %s/wandb", run_dir
            )
            return True
    elif not has_key():
        raise UserError("offline=false needs an API key: run `wandb login`, set WANDB_API_KEY, or give offline=auto")
    return False
