"""Teachers: networks of finished runs, which say of this run's images what they are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layermatch.errors import UserError
from layermatch.functional import hard_pseudo_labels
from layermatch.methods.pseudo_labelling import record_quality
from layermatch.parts import Pool, Step, Teacher
from layermatch.policies import PseudoLabels

__all__ = ["check_teacher", "load_teacher", "logits_of", "record_targets"]


def check_teacher(name: str, path: object) -> None:
    """Refuse what names no run or checkpoint; whether it is there is seen where it is needed.

    Args:
        name: The name of the argument.
        path: What was given.

    Raises:
        UserError: It is no path.
    """
    if not isinstance(path, str | Path) or not str(path).strip():
        raise UserError(f"{name}={path!r} is not legal: give the directory of a finished run, or a .ckpt file")


def load_teacher(path: str | Path, pool: Pool, *, name: str) -> Teacher:
    """Return the network of a run, on the device of this run's, where it fits this run's images and classes.

    Args:
        path: The run directory or the checkpoint.
        pool: The images that it is for.
        name: The name of the argument, for the error.

    Raises:
        UserError: It cannot be read, or is of other classes.
    """
    try:
        teacher = pool.open_teacher(path)
    except UserError as error:
        raise UserError(str(error).replace("ckpt_path=", f"{name}=", 1)) from error
    if teacher.class_names != pool.classes:
        raise UserError(
            f"{name}={path} knows other classes than this run: {_classes(teacher.class_names)}, not "
            f"{_classes(pool.classes)}: give a run on the same classes"
        )
    return teacher


def logits_of(
    teacher: Teacher, pool: Pool, *, given: str, labelled: bool = False, weak_pass: int | None = None
) -> Tensor:
    """Return a teacher's logits for every image, prepared as the teacher's own run prepared its images.

    Args:
        teacher: The teacher.
        pool: The images.
        given: What was given as the teacher, ``NAME=PATH``, for the error.
        labelled: Whether the labelled images are looked at, in the place of the pool.
        weak_pass: The number of the pass over weak views; None looks at the images as they are.

    Raises:
        UserError: Its images have another shape.
    """

    def look(images: Tensor) -> Tensor:
        shape = tuple(images.shape[1:])
        if shape != teacher.image_shape:
            raise UserError(
                f"{given} reads images of {_size(teacher.image_shape)}, and those of this run "
                f"are {_size(shape)}: give a run on images of the same size, as data.image_size sets it"
            )
        # In the precision of the teacher's own run, not of this one.
        with torch.autocast(images.device.type, enabled=False):
            return teacher.logits(images).logits.float()

    return pool.look(look, labelled=labelled, weak_pass=weak_pass, normalised=False)


def record_targets(target: Tensor, hidden_label: Tensor, *, step: Step) -> None:
    """Log how sure a teacher's targets are, of which classes, and how many are right; all of them count.

    Args:
        target: ``(N, K)`` probabilities.
        hidden_label: ``(N,)`` int64, the true class, -1 where unknown. It is used for nothing else.
        step: Takes the quantities.
    """
    label, confidence = hard_pseudo_labels(target)
    pseudo_labels = PseudoLabels(target, torch.ones_like(confidence), label, confidence)
    record_quality(pseudo_labels, target, hidden_label, step=step)


def _classes(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)} of them)"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
