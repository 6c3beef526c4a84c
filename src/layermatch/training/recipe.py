"""What has to be known beside the weights of a network to predict with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch

from layermatch.data import SemiSupervisedData
from layermatch.methods import Method
from layermatch.parts import Problem

__all__ = ["BASE_KEY", "RECIPE_KEY", "Recipe"]

#: Where a checkpoint says which pretrained weights it leaves out; see :class:`~layermatch.networks.Network`.
BASE_KEY = "base_weights"

#: Where a checkpoint holds the recipe.
RECIPE_KEY = "recipe"


@dataclass(frozen=True)
class Recipe:
    """What every checkpoint says of its images and its network, so that it can be used where the data set is not.

    Args:
        classes: The names of the classes, K of them.
        image_shape: ``(C, H, W)``.
        mean: The mean of each channel, in ``[0, 1]``.
        std: The standard deviation of each channel, above 0.
        channels_last: Whether images are laid out channels last.
        batch_size: The images of an evaluation batch.
        precision: The precision of the trainer, in Lightning's words.
        head: The head that is evaluated; None where the method computes logits in a way of its own.
        num_features: D, the width of the features.
        num_labelled: The number of labelled images.
        num_unlabelled: The number of images in the unlabelled pool.
        label_counts: The number of labelled images of each class; empty where nobody knows.
        max_steps: The optimizer steps of the run.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool
    batch_size: int
    precision: str
    head: str | None
    num_features: int
    num_labelled: int
    num_unlabelled: int
    label_counts: tuple[int, ...]
    max_steps: int

    @classmethod
    def of(cls, data: SemiSupervisedData, method: Method, problem: Problem, *, precision: str) -> Self:
        """Return the recipe of a run.

        Args:
            data: The data module, set up.
            method: The method.
            problem: What the method knows of the data and of the run.
            precision: The precision of the trainer.
        """
        return cls(
            classes=tuple(data.classes),
            image_shape=data.image_shape,
            mean=tuple(float(number) for number in data.mean),
            std=tuple(float(number) for number in data.std),
            channels_last=data.channels_last,
            batch_size=data.eval_batch_size,
            precision=precision,
            head=method.evaluated_head,
            num_features=problem.num_features,
            num_labelled=problem.num_labelled,
            num_unlabelled=problem.num_unlabelled,
            label_counts=problem.label_counts,
            max_steps=problem.max_steps,
        )

    def plain(self) -> dict[str, Any]:
        """Return the recipe as plain containers, for checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Self:
        """Return a recipe from what :meth:`plain` gave.

        Args:
            values: The values by name.

        Raises:
            KeyError: One is missing.
        """
        given: dict[str, Any] = {field.name: values[field.name] for field in fields(cls)}
        listed = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        return cls(**{**given, **listed})

    @property
    def problem(self) -> Problem:
        """What the method knew of the data, but for the classes of single images, which only training needs."""
        unknown = torch.full((self.num_unlabelled,), -1, dtype=torch.int64) if self.num_unlabelled else None
        return Problem(
            num_classes=len(self.classes),
            num_features=self.num_features,
            num_labelled=self.num_labelled,
            num_unlabelled=self.num_unlabelled,
            image_shape=self.image_shape,
            max_steps=self.max_steps,
            label_counts=self.label_counts,
            pool_labels=unknown,
        )
