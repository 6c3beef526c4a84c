"""What a method may look at before the first step of a stage: every image of the pool, and the labelled ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from layermatch.parts.step import Step

__all__ = ["Pool"]


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
