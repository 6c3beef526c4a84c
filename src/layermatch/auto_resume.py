"""Whether a run directory holds a run that goes on, one that is finished, or one that is to be started again."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from layermatch.build import SECTIONS
from layermatch.checkpoints import FOLDER, newest_checkpoint, newest_run
from layermatch.dashboards import flatten
from layermatch.errors import UserError
from layermatch.metrics import OWN_METRICS
from layermatch.paths import expand

__all__ = ["OUTPUTS", "check_same_run", "finished_results", "is_left_over", "outputs_in", "resolve_checkpoint"]

#: What a run writes into its directory; none of it may be there before a new run.
OUTPUTS = (
    "config.yaml", "split.json", "run.log", "metrics.csv", "results.json", "predictions.csv", FOLDER, "figures",
    OWN_METRICS,
)  # fmt: skip

#: Settings that say where, how fast and how often, but not what is trained.
NOT_OF_A_RUN = {
    "run_dir", "ckpt_path", "name", "plugins", "compile", "checkpoint.every_n_steps", "checkpoint.keep", "data.root",
    "data.verify", "data.download", "data.storage", "data.cache_dir", "data.num_workers", "data.eval_batch_size",
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.log_every",
    "trainer.wait",
}  # fmt: skip


def outputs_in(run_dir: Path) -> list[str]:
    """The names of :data:`OUTPUTS` that are in a directory."""
    try:
        there = {path.name for path in run_dir.iterdir()}
    except OSError:  # it is not there, or cannot be looked into
        return []
    return [name for name in OUTPUTS if name in there]


def is_left_over(run_dir: Path) -> bool:
    """Whether a directory holds the beginning of a run of ours that left no checkpoint and no results."""
    there = outputs_in(run_dir)
    if "results.json" in there or "predictions.csv" in there or any((run_dir / FOLDER).glob("*.ckpt")):
        return False
    return (_config(run_dir) or {}).keys() >= SECTIONS


def resolve_checkpoint(given: object, run_dir: Path, *, is_timed: bool) -> tuple[Path, Path | None]:
    """The run directory, and the checkpoint to go on from.

    Args:
        given: ``ckpt_path``: None, a file, ``last``, or ``auto``, which goes on where there is a checkpoint and starts
            where there is none.
        run_dir: as composed.
        is_timed: whether ``run_dir`` is another one each time; ``last`` then takes the newest run beside it.

    Raises:
        UserError: there is no checkpoint, none is valid, or ``auto`` would never find one.
    """
    if given is None:
        return run_dir, None
    if given == "last":
        run_dir = newest_run(run_dir.parent) if is_timed else run_dir
        return run_dir, newest_checkpoint(run_dir)
    if given == "auto":
        if is_timed:
            raise UserError("ckpt_path=auto needs a run_dir that is the same each time: give run_dir=runs/NAME")
        is_begun = any((run_dir / FOLDER).glob("*.ckpt"))
        return run_dir, newest_checkpoint(run_dir, given="auto") if is_begun else None
    return run_dir, expand("ckpt_path", given, "a checkpoint file, last or auto")


def finished_results(run_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of ``results.json`` where a run has made all its steps; None otherwise.

    Args:
        run_dir: of the run.
        settings: what it would be started with now.

    Raises:
        UserError: it was a run of other settings.
    """
    try:
        results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        steps = int(results["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if steps < settings["trainer"]["max_steps"]:
        return None
    check_same_run(run_dir, settings)
    return dict(results)


def check_same_run(run_dir: Path, settings: Mapping[str, Any], *, swept: Container[str] = ()) -> None:
    """Refuse a directory that holds a run of other settings.

    A run may be made longer, and may move to other devices and folders.

    Args:
        run_dir: of the run; where it holds no configuration, nothing is refused.
        settings: what it would be started with now.
        swept: settings that tell the jobs of a sweep from each other, and so may not change, whatever they are.

    Raises:
        UserError: what is trained is another thing.
    """
    old = _config(run_dir)
    if old is None or not settings:
        return
    before, now = flatten(old), flatten(settings)
    changed = [
        key for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and (key in swept or not _may_change(key, before, now))
    ]  # fmt: skip
    if changed:
        shown = ", ".join(f"{key}={before.get(key)}, not {now.get(key)}" for key in changed[:3])
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(f"run_dir={run_dir} holds a run with {shown}{more}: give another run_dir")


def _may_change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    old, new = before.get(key), now.get(key)
    if key == "trainer.max_steps":
        return isinstance(old, int) and isinstance(new, int) and old < new
    if key == "data.batch_size":  # of each device
        return _images_of_all(before) == _images_of_all(now)
    return key in NOT_OF_A_RUN or key.startswith("logger.")


def _images_of_all(settings: Mapping[str, Any]) -> list[Any]:
    """The factors of the labelled images of a step: 8 on 2 devices are as many as 16 on one."""
    factors = [settings.get(key) for key in ("data.batch_size", "trainer.devices", "trainer.num_nodes")]
    whole = [factor for factor in factors if isinstance(factor, int)]
    return [math.prod(whole)] if len(whole) == len(factors) else factors


def _config(run_dir: Path) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None
