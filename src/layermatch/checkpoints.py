"""Finding and reading checkpoints."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from layermatch.callbacks import CHECKPOINT_KEY
from layermatch.errors import UserError

__all__ = ["FOLDER", "check_fits", "newest_checkpoint", "newest_run", "read_checkpoint"]

#: What torch raises at a file that is no checkpoint: there is no end to how bytes can be wrong.
UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, ImportError, AssertionError,
    struct.error,
)  # fmt: skip

#: The folder of a run directory that holds its checkpoints.
FOLDER = "checkpoints"


def newest_checkpoint(run_dir: Path) -> Path:
    """The checkpoint that was written last in a run directory.

    Raises:
        UserError: there is none.
    """
    found = sorted((run_dir / FOLDER).glob("*.ckpt"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not found:
        raise UserError(
            f"ckpt_path=last: there is no checkpoint in {run_dir / FOLDER}: give ckpt_path=FILE or run_dir=DIR"
        )
    return found[-1]


def newest_run(runs: Path) -> Path:
    """The run directory whose checkpoint was written last, among the folders of ``runs``.

    Raises:
        UserError: there is none.
    """
    found = [path for path in runs.glob(f"*/{FOLDER}/*.ckpt") if path.is_file()]
    if not found:
        raise UserError(
            f"ckpt_path=last: there is no run with a checkpoint in {runs}: give ckpt_path=FILE or run_dir=DIR"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent.parent


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a layermatch run. Pickled code in it is not run.

    Raises:
        UserError: there is no such file, or it is not such a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: there is no such file: give a .ckpt file of a run")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's age; what follows says all that matters
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch advises to load it without protection. We do not.
        raise UserError(
            f"ckpt_path={path} holds more than tensors and plain values, or is no checkpoint: refused"
        ) from error
    except UNREADABLE as error:
        reason = str(error).strip().split("\n", maxsplit=1)[0]
        raise UserError(f"ckpt_path={path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"ckpt_path={path} is not a checkpoint of layermatch: give a .ckpt file of a run")
    return checkpoint


def check_fits(
    checkpoint: Mapping[str, Any], state: Mapping[str, torch.Tensor], *, classes: Sequence[str], path: object
) -> None:
    """Refuse a checkpoint that does not fit the data or the network.

    Args:
        checkpoint: from :func:`read_checkpoint`.
        state: the algorithm's ``state_dict()``.
        classes: names of the data set's classes.
        path: of the checkpoint, for the error.

    Raises:
        UserError: it does not fit.
    """
    its_classes = checkpoint[CHECKPOINT_KEY]["classes"]
    if len(its_classes) != len(classes):
        raise UserError(
            f"ckpt_path={path} is of {len(its_classes)} classes, but this data set has {len(classes)}: give a "
            f"checkpoint of the same classes"
        )
    if list(classes) != its_classes:
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
