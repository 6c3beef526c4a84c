"""What ``logger=csv|tensorboard|wandb|none`` stands for."""

from __future__ import annotations

import csv as csv_format
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_choice

__all__ = ["MetricsCsv", "csv", "none", "tensorboard", "wandb"]

_log = logging.getLogger(__name__)


class MetricsCsv(CSVLogger):
    """Lightning's CSVLogger, which goes on with the rows of the run that is resumed instead of deleting them.

    Args:
        run_dir: where ``metrics.csv`` is written.
        first_step: rows of later steps belong to steps that will be made again, and are dropped.
    """

    def __init__(self, run_dir: str | Path, *, first_step: int = 0) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)
        self._kept = self._read_rows(Path(run_dir) / "metrics.csv", first_step)

    @staticmethod
    @rank_zero_only
    def _read_rows(path: Path, first_step: int) -> list[dict[str, Any]]:
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            rows: list[dict[str, Any]] = [row for row in csv_format.DictReader(file) if int(row["step"]) <= first_step]
        path.unlink()  # read, and written again with the first new row
        return rows

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Write one row."""
        if self._kept:
            self.experiment.metrics.extend(self._kept)
            self._kept = []
        super().log_metrics(metrics, step)
        self.save()


def csv(*, run_dir: Path, first_step: int) -> list[Logger]:
    """``metrics.csv`` in the run directory."""
    return [MetricsCsv(run_dir, first_step=first_step)]


def none(*, run_dir: Path, first_step: int) -> list[Logger]:  # noqa: ARG001 -- every logger takes the same two
    """Nothing is logged."""
    return []


def tensorboard(*, run_dir: Path, first_step: int) -> list[Logger]:
    """``metrics.csv``, and TensorBoard's event files.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        logger = TensorBoardLogger(run_dir, name="", version="tensorboard")
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
) -> list[Logger]:
    """``metrics.csv``, and Weights & Biases.

    Args:
        run_dir: where the run's files are kept.
        first_step: of a resumed run.
        project: W&B project.
        entity: W&B user or team; None is the key's own.
        group: runs of one group are shown together.
        tags: of the run.
        offline: ``auto`` goes offline where no API key is configured, and says so.

    Raises:
        UserError: ``offline`` is not legal.
    """
    if not isinstance(offline, bool):
        check_choice("logger.offline", offline, ("auto", "true", "false"))
        offline = not _has_wandb_key() if offline == "auto" else offline == "true"
        if offline and is_rank_zero():
            _log.warning(
                "W&B: no API key is configured: the run is kept offline, `wandb sync` it from %s/wandb", run_dir
            )
    logger = WandbLogger(
        name=str(run_dir),
        save_dir=run_dir,
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
        # Not Lightning's own `offline`: it sets an environment variable, which wandb has read by now.
        mode="offline" if offline else None,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning always passes it; wandb warns of it now and will refuse it
    return [*csv(run_dir=run_dir, first_step=first_step), logger]


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_MODE") in {"offline", "disabled", "dryrun"}:
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    try:
        return bool(wandb.Api().api_key)
    except wandb.errors.UsageError:  # how it says that there is none
        return False
