"""Writing, finding and reading checkpoints.

A checkpoint is a zip file with a checksum for each of its parts. It is written under another name, brought to the disk
and then renamed, so that a file that bears a checkpoint's name is whole, whatever happened while it was written; what
happens to it later, its checksums show.
"""

from __future__ import annotations

import io
import logging
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from layermatch.data import Split
from layermatch.data.wording import composed
from layermatch.distributed import is_rank_zero
from layermatch.errors import RunError, UserError
from layermatch.files import replacing
from layermatch.paths import expand, is_file
from layermatch.runs.layout import CHECKPOINTS, checkpoints_in, run_dir_of

__all__ = [
    "CHECKPOINT_KEY",
    "CheckpointFiles",
    "check_fits",
    "newest_checkpoint",
    "newest_run",
    "read_checkpoint",
    "read_plain",
    "stored_split",
    "write_checkpoint",
]

_log = logging.getLogger(__name__)

#: Where a checkpoint holds what it says of its run: settings, classes, split.
CHECKPOINT_KEY = "layermatch"

#: What torch raises at a file that is no checkpoint: there is no end to how bytes can be wrong.
UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, ImportError, AssertionError,
    struct.error,
)  # fmt: skip


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that ``path`` is either whole or not there, and what was there before stays until then.

    Args:
        checkpoint: The checkpoint: tensors and plain values.
        path: The path of the new file, which may replace one.

    Raises:
        RunError: The disk is full, or the file cannot be written for another reason, or a value of the model is not
            finite. Nothing has changed then.
    """
    for name, value in checkpoint.get("state_dict", {}).items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise RunError(f"{path} is not written: {name} is not finite: earlier checkpoints are good")
    content = io.BytesIO()
    torch.save(checkpoint, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(content.getbuffer())
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}: earlier checkpoints are whole; make room or repair the "
            f"disk, then go on with ckpt_path=last"
        ) from error


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, by :func:`write_checkpoint`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write a checkpoint."""
        write_checkpoint(checkpoint, Path(path))


def newest_checkpoint(run_dir: Path, *, given: str = "last") -> Path:
    """Return the valid checkpoint that was written last in a run directory. Damaged ones are named in a warning.

    Args:
        run_dir: The directory of the run.
        given: The value of ``ckpt_path``, for the error.

    Raises:
        UserError: There is no checkpoint, or none is valid.
    """
    found = sorted(checkpoints_in(run_dir), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not found:
        raise UserError(
            f"ckpt_path={given}: there is no checkpoint in {run_dir / CHECKPOINTS}: give ckpt_path=FILE or "
            f"run_dir=DIR, or ckpt_path=auto, which starts where there is none"
        )
    damaged = []
    for path in reversed(found):
        try:
            read_checkpoint(path)
        except UserError as error:
            damaged.append(str(error).removeprefix("ckpt_path="))
            continue
        if damaged and is_rank_zero():
            _log.warning("%s; going on from %s", "; ".join(damaged), path)
        return path
    raise UserError(f"ckpt_path={given}: no checkpoint in {run_dir / CHECKPOINTS} is valid: {'; '.join(damaged)}")


def newest_run(runs: Path) -> Path:
    """Return the run directory whose checkpoint was written last, among the folders of ``runs``.

    Raises:
        UserError: There is no checkpoint.
    """
    found = [path for run_dir in runs.glob("*") for path in checkpoints_in(run_dir) if path.is_file()]
    if not found:
        raise UserError(
            f"ckpt_path=last: there is no run with a checkpoint in {runs}: give ckpt_path=FILE or run_dir=DIR"
        )
    return run_dir_of(max(found, key=lambda path: path.stat().st_mtime_ns))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of a layermatch run. Pickled code in it is not run.

    Raises:
        UserError: There is no such file, or it is not such a checkpoint.
    """
    checkpoint = read_plain(path)
    if not _is_ours(checkpoint):
        raise UserError(f"ckpt_path={path} is not a checkpoint of layermatch: give a .ckpt file of a run")
    return checkpoint


def read_plain(path: str | Path) -> object:
    """Return what a file of torch's holds, if that is tensors and plain values. Pickled code in it is not run.

    Args:
        path: The path of the file.

    Raises:
        UserError: There is no such file, or it is damaged, or holds anything else.
    """
    path = expand("ckpt_path", path, "a checkpoint file")
    if not is_file(path):
        raise UserError(f"ckpt_path={path}: there is no such file: give a .ckpt file of a run")
    try:
        _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's age; what follows says all that matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch advises to load it without protection. We do not.
        raise UserError(
            f"ckpt_path={path} holds more than tensors and plain values, or is no checkpoint: refused"
        ) from error
    except UNREADABLE as error:
        raise UserError(f"ckpt_path={path} {_unreadable(path, error)}") from error


def _unreadable(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that torch cannot read. Of one that is no zip file its words help nobody."""
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    is_of_system = isinstance(error, OSError) and bool(error.strerror)
    if is_of_system or (_begins_as_zip(path) and "weights_only" not in reason):
        return f"cannot be read as a checkpoint: {reason}"
    return "is no checkpoint: give a .ckpt file of a run"


def _begins_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def stored_split(checkpoint: Mapping[str, Any], path: object) -> Split:
    """Return which images the run of a checkpoint learnt from and held out.

    Args:
        checkpoint: A checkpoint, as :func:`read_checkpoint` gives it.
        path: The path of the checkpoint, for messages.

    Raises:
        UserError: The checkpoint does not say.
    """
    try:
        return Split.of_plain(checkpoint[CHECKPOINT_KEY]["split"], origin=f"ckpt_path={path}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"ckpt_path={path} does not say which images are labelled: {error}") from error


def _is_ours(checkpoint: object) -> TypeGuard[dict[str, Any]]:
    """Return whether everything is there that is read before the network is known."""
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        return False
    ours = checkpoint.get(CHECKPOINT_KEY)
    kinds = {"classes": list, "settings": dict, "split": dict}
    if not isinstance(ours, dict) or not isinstance(checkpoint.get("global_step"), int):
        return False
    return all(isinstance(ours.get(name), kind) for name, kind in kinds.items()) and all(
        isinstance(value, torch.Tensor) for value in checkpoint["state_dict"].values()
    )


def _check_sums(path: Path) -> None:
    """Compare every part of the file with its checksum, which torch itself does not.

    Raises:
        ValueError: The sums differ.
    """
    if not zipfile.is_zipfile(path):
        return  # torch says what it is
    try:
        with zipfile.ZipFile(path) as file:
            part = file.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if part is not None:
        raise ValueError(f"it is damaged (wrong checksum of {part})")


def check_fits(
    checkpoint: Mapping[str, Any], state: Mapping[str, torch.Tensor], *, classes: Sequence[str], path: object
) -> None:
    """Refuse a checkpoint that does not fit the data or the network.

    Args:
        checkpoint: A checkpoint, as :func:`read_checkpoint` gives it.
        state: The algorithm's ``state_dict()``.
        classes: The names of the data set's classes.
        path: The path of the checkpoint, for the error.

    Raises:
        UserError: The checkpoint does not fit.
    """
    # Folders' names are composed as they are read; those of a user's own data set may be in either form.
    its_classes = [composed(str(name)) for name in checkpoint[CHECKPOINT_KEY]["classes"]]
    classes = [composed(name) for name in classes]
    if len(its_classes) != len(classes):
        raise UserError(
            f"ckpt_path={path} is of {len(its_classes)} classes, but this data set has {len(classes)}: give a "
            f"checkpoint of the same classes"
        )
    if classes != its_classes:
        pairs = [f"{old} / {new}" for old, new in zip(its_classes, classes, strict=True) if old != new]
        raise UserError(f"ckpt_path={path} has other classes than this data set: {', '.join(pairs[:3])}")
    saved = checkpoint["state_dict"]
    wrong = [n for n in state if n not in saved or saved[n].shape != state[n].shape] + [
        n for n in saved if n not in state
    ]
    if wrong:
        raise UserError(
            f"ckpt_path={path} is of another model or algorithm: {len(wrong)} of its tensors do not fit, the first "
            f"{wrong[0]}: give the model, algorithm and layerwise settings of its run (its config.yaml)"
        )
