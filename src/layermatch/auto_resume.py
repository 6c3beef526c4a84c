"""Whether a run directory holds a run that goes on, one that is finished, or one that is to be started again."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from layermatch.checkpoints import newest_checkpoint, newest_run
from layermatch.errors import UserError, check_number
from layermatch.paths import expand
from layermatch.runs.identity import may_change
from layermatch.runs.layout import PREDICTIONS, RESULTS, checkpoints_in, outputs_in
from layermatch.runs.reading import read_results
from layermatch.runs.settings import flatten, stored_settings
from layermatch.settings import SECTIONS

__all__ = ["check_same_run", "finished_results", "is_left_over", "resolve_checkpoint"]


def is_left_over(run_dir: Path) -> bool:
    """Return whether a directory holds the beginning of a run of ours that left no checkpoint and no results."""
    there = outputs_in(run_dir)
    if RESULTS in there or PREDICTIONS in there or checkpoints_in(run_dir):
        return False
    return (stored_settings(run_dir) or {}).keys() >= SECTIONS


def resolve_checkpoint(given: object, run_dir: Path, *, is_timed: bool) -> tuple[Path, Path | None]:
    """Return the run directory, and the checkpoint to go on from.

    Args:
        given: ``ckpt_path``: None, a file, ``last``, or ``auto``, which goes on where there is a checkpoint and starts
            where there is none.
        run_dir: The run directory, as the configuration names it.
        is_timed: Whether ``run_dir`` is another one each time; ``last`` then takes the newest run beside it.

    Raises:
        UserError: There is no checkpoint, none is valid, or ``auto`` would never find one.
    """
    if given is None:
        return run_dir, None
    if given == "last":
        run_dir = newest_run(run_dir.parent) if is_timed else run_dir
        return run_dir, newest_checkpoint(run_dir)
    if given == "auto":
        if is_timed:
            raise UserError("ckpt_path=auto needs a run_dir that is the same each time: give run_dir=runs/NAME")
        return run_dir, newest_checkpoint(run_dir, given="auto") if checkpoints_in(run_dir) else None
    return run_dir, expand("ckpt_path", given, "a checkpoint file, last or auto")


def finished_results(run_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of ``results.json`` where a run has made all its steps; None otherwise.

    Args:
        run_dir: The directory of the run.
        settings: The settings that the run would be started with now.

    Raises:
        UserError: The run that is there has other settings, or ``trainer.max_steps`` is not legal.
    """
    try:
        results = read_results(run_dir / RESULTS)
        steps = int(results["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    max_steps = settings["trainer"]["max_steps"]
    check_number("trainer.max_steps", max_steps, low=1, integer=True)
    if steps < max_steps:
        return None
    check_same_run(run_dir, settings)
    return results


def check_same_run(run_dir: Path, settings: Mapping[str, Any], *, swept: Container[str] = ()) -> None:
    """Refuse a directory that holds a run of other settings.

    A run may be made longer, and may move to other devices and folders.

    Args:
        run_dir: The directory of the run; where it holds no configuration, nothing is refused.
        settings: The settings that the run would be started with now.
        swept: Settings that tell the jobs of a sweep from each other, and so may not change, whatever they are.

    Raises:
        UserError: What is trained is another thing.
    """
    old = stored_settings(run_dir)
    if old is None or not settings:
        return
    before, now = flatten(old), flatten(settings)
    changed = [
        key for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key) and (key in swept or not may_change(key, before, now))
    ]  # fmt: skip
    if changed:
        shown = ", ".join(f"{key}={before.get(key)}, not {now.get(key)}" for key in changed[:3])
        more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(f"run_dir={run_dir} holds a run with {shown}{more}: give another run_dir")
