"""What a method may look at before the first step of a stage: every image of the pool, and the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from layermatch.networks import Output
from layermatch.parts.step import Step

__all__ = ["OpenTeacher", "Pool", "Teacher"]


class Teacher(Protocol):
    """The network of another run, which says of this run's images what they are."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images that it reads."""
        ...

    def logits(self, images: Tensor) -> Output:
        """Return features and logits of images.

        Args:
            images: ``(N, C, H, W)`` uint8; it normalises them as its own run did.
        """
        ...


#: Reads the network of a run, from the path of the run's directory or of a checkpoint, onto a device.
OpenTeacher = Callable[[str | Path, torch.device], Teacher]


class Pool(Protocol):
    """The images of a run, looked at one by one before a stage begins.

    All ranks must make the same calls together, and get the same. See :class:`~layermatch.training.pool.PoolImages`.
    """

    @property
    def step(self) -> Step:
        """The first step of the stage, which has not been made: its network and its average."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    @property
    def labels(self) -> Tensor:
        """The labels of the labelled images, ``(num_labelled,)`` int64, on the network's device."""
        ...

    def open_teacher(self, path: str | Path) -> Teacher:
        """Read the network of another run, onto the device of this run's.

        Args:
            path: The directory of a finished run, or a checkpoint.

        Raises:
            UserError: It cannot be read, or nobody has said how runs are read.
        """
        ...

    def __call__(self) -> Tensor:
        """Return the live network's logits for the pool, ``(num_unlabelled, K)``, not augmented, without gradient."""
        ...

    def look(
        self,
        what: Callable[[Tensor], Tensor],
        *,
        labelled: bool = False,
        weak_pass: int | None = None,
        normalised: bool = True,
    ) -> Tensor:
        """Return what a function makes of every image, without gradient and with the networks in evaluation mode.

        Args:
            what: A function from images ``(B, C, H, W)`` to rows ``(B, ...)``.
            labelled: Whether the labelled images are looked at, in the place of the pool.
            weak_pass: The number of a pass over the pool's weak views, from 0 on, each with random numbers of its own;
                None looks at the images as they are.
            normalised: Whether the images are normalised for the network, float32; else they are uint8.

        Returns:
            The rows of all images in the order of their set.
        """
        ...
