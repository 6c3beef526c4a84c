"""Going on from a checkpoint: what has to be as it was, what may change, and what changed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layermatch.build import RunParts, learning_rate_at
from layermatch.callbacks import CheckpointWriter
from layermatch.checkpoints import CHECKPOINT_KEY, check_fits, stored_split
from layermatch.data import Split
from layermatch.errors import UserError
from layermatch.runs.identity import Kind, images_of_step, keys_of, kind_of, trained_with
from layermatch.runs.layout import CONFIG, earlier_config_name
from layermatch.runs.settings import flatten, stored_settings
from layermatch.settings import Settings
from layermatch.training.learning_rate import rate_of

__all__ = ["changed_rows", "check_resume", "keep_config", "split_to_go_on_with"]

#: Settings that say which images are labelled and held out.
_DRAWN_BY = tuple(keys_of(Kind.DRAW, Kind.LABELS))

Raw = Mapping[str, Any]
Checkpoint = Mapping[str, Any]


def split_to_go_on_with(checkpoint: Checkpoint, settings: Raw, *, path: Path) -> Split | None:
    """Return the split of a checkpoint, where the settings ask for the same; None where it is to be drawn and compared.

    Drawn again from a data set that has grown, other images would be labelled.

    Args:
        checkpoint: A checkpoint, as :func:`~layermatch.checkpoints.read_checkpoint` gives it.
        settings: The settings of the run that goes on.
        path: The path of the checkpoint, for messages.

    Raises:
        UserError: The checkpoint does not say which images are labelled.
    """
    before, now = flatten(_settings_of(checkpoint)), flatten(settings)
    same = all(before.get(key) == now.get(key) for key in (*_DRAWN_BY, "data.source._target_"))
    return stored_split(checkpoint, path) if same else None


def check_resume(
    parts: RunParts, settings: Raw, *, checkpoint: Checkpoint, path: Path, folder: Path, is_finished: bool
) -> int:
    """Refuse to go on from a checkpoint that the run does not follow from.

    Args:
        parts: The parts of the run that goes on.
        settings: The settings of the run that goes on.
        checkpoint: A checkpoint, as :func:`~layermatch.checkpoints.read_checkpoint` gives it.
        path: The path of the checkpoint, for messages.
        folder: The folder of the checkpoints of the run that goes on.
        is_finished: Whether a checkpoint at the last step leaves nothing to do.

    Returns:
        The step that the run starts at.

    Raises:
        UserError: The run does not follow from the checkpoint.
    """
    check_fits(checkpoint, parts.algorithm.state_dict(), classes=parts.data.classes, path=path)
    step, max_steps = int(checkpoint["global_step"]), settings["trainer"]["max_steps"]
    if step > max_steps or (step == max_steps and is_finished):
        raise UserError(
            f"ckpt_path={path} is at step {step} already: give trainer.max_steps above that, not {max_steps}"
        )
    before = _settings_of(checkpoint)
    _check_images(stored_split(checkpoint, path), parts.data.split, before, settings)
    its_batch, batch = (images_of_step(flatten(each)) for each in (before, settings))
    if its_batch != batch:
        raise UserError(
            f"ckpt_path={path} is of a run with {its_batch}, this one has {batch}: the number of devices may "
            f"change, with data.batch_size such that the rest stays"
        )
    _check_fixed(before, settings, path=path)
    _check_best(checkpoint, settings, path=path, folder=folder)
    return step


def changed_rows(checkpoint: Checkpoint, settings: Settings) -> list[tuple[str, ...]]:
    """Return every setting that is not as it was, and the learning rate if it jumps: name, before, now.

    Args:
        checkpoint: The checkpoint that the run goes on from.
        settings: The settings of the run that goes on.
    """
    rows: list[tuple[str, ...]] = [
        (name, _text(then), _text(now)) for name, then, now in _changes(_settings_of(checkpoint), settings.raw)
    ]
    step = int(checkpoint["global_step"])
    rates = [f"{rate:.4g}" for rate in (_stored_rate(checkpoint), learning_rate_at(settings, step)) if rate is not None]
    if len(set(rates)) > 1:
        rows.append((f"learning rate at step {step}", rates[0], rates[1]))
    return rows


def keep_config(run_dir: Path, settings: Raw, *, step: int) -> None:
    """Keep a run directory's ``config.yaml`` under another name, where it says something else than ``settings``.

    Args:
        run_dir: The directory of the run, which goes on in it.
        settings: What ``config.yaml`` will say.
        step: The step that the run goes on from.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return
    before = stored_settings(run_dir)  # None: whatever it is, it is not lost
    if before is not None and not _changes(before, settings):
        return
    places = (run_dir / earlier_config_name(step, number) for number in itertools.count(1))
    shutil.copyfile(path, next(place for place in places if not place.exists()))


def _settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    settings: dict[str, Any] = checkpoint[CHECKPOINT_KEY]["settings"]
    return settings


def _changes(before: Raw, now: Raw) -> list[tuple[str, Any, Any]]:
    then, here = flatten(before), flatten(now)
    names = [name for name in {**then, **here} if kind_of(name) is not Kind.OWN]
    return [(name, then.get(name), here.get(name)) for name in names if then.get(name) != here.get(name)]


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _stored_rate(checkpoint: Checkpoint) -> float | None:
    """Return the learning rate that the checkpoint's run would have gone on with."""
    try:
        return rate_of(checkpoint["optimizer_states"][0]["param_groups"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _check_images(its: Split, split: Split, before: Raw, now: Raw) -> None:
    known = bool(its.names and split.names)
    same = [its.names, split.names] if known else [(s.labelled, s.validation) for s in (its, split)]
    # Which labels are wrong, and what is left of the pool, are drawn with the seed of the split, also where every image
    # is labelled.
    is_drawn = bool(now["data"].get("label_noise")) or now["data"].get("pool_limit") is not None
    other_labels = is_drawn and its.seed != split.seed
    if same[0] != same[1] or len(its.labelled) != len(split.labelled) or other_labels:
        drawn = [f"{name}={_text(now)} (not {_text(then)})" for name, then, now in _changes(before, now)
                 if name in _DRAWN_BY]  # fmt: skip
        raise UserError(
            f"{its.title} has other labelled images than {', '.join(drawn) or 'this data set'}: give its seed and "
            "settings of data, or data.split of its run"
        )


def _check_fixed(before: Raw, now: Raw, *, path: Path) -> None:
    changed = [
        (name, then, here)
        for name, then, here in _changes(before, now)
        if kind_of(name) is Kind.LEARNT and trained_with(name, then) != trained_with(name, here)
    ]
    if changed:
        its = " ".join(f"{name}={_text(then)}" for name, then, _ in changed)
        ours = " ".join(f"{name}={_text(here)}" for name, _, here in changed)
        raise UserError(
            f"ckpt_path={path} is of a run with {its}, this one has {ours}: a run goes on with what it learnt with; "
            "give the same, or start another run without ckpt_path"
        )


def _check_best(checkpoint: Checkpoint, settings: Raw, *, path: Path, folder: Path) -> None:
    """Refuse to choose the best evaluation where there was none, and none is to come."""
    step = int(checkpoint["global_step"])
    every, max_steps = settings["eval_every"], settings["trainer"]["max_steps"]
    if settings["checkpoint"]["selection"] != "best_val" or max_steps // every > step // every:
        return
    state = checkpoint.get("callbacks", {}).get(CheckpointWriter.__name__, {})
    if CheckpointWriter.found_again(state, folder=folder) is None:
        raise UserError(
            f"checkpoint.selection=best_val: the best checkpoint of ckpt_path={path} is not there, and no evaluation "
            f"follows step {step} with eval_every={every} and trainer.max_steps={max_steps}: give "
            "checkpoint.selection=last, or more steps"
        )
