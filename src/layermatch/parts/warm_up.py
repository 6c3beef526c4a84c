"""The first steps of a run, and what labelled images show at their end."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_sum_
from layermatch.parts.step import Step, StepState

__all__ = ["WarmUp"]


class WarmUp(StepState):
    """The steps that a run warms up for, with the mean of a quantity in their last pass over the labelled images.

    A pass is as many labelled images as there are, of all ranks, counted back from the end of the warm-up. State is the
    same on every rank.

    Args:
        steps: The optimizer steps that it takes, at least 0.
        num_labelled: The number of labelled images.

    Example:
        >>> warm_up = WarmUp(2, num_labelled=2)
        >>> for quantity in ([9.0, 9.0], [1.0, 3.0], [9.0, 9.0]):
        ...     warm_up.see(torch.tensor(quantity))
        ...     warm_up.after_step(None)
        >>> warm_up.mean, warm_up.steps_since
        (tensor(2., dtype=torch.float64), tensor(1))
    """

    num_steps: Tensor
    of_last_pass: Tensor

    def __init__(self, steps: int, *, num_labelled: int) -> None:
        super().__init__()
        self.steps = steps
        self.num_labelled = num_labelled
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("of_last_pass", torch.zeros(2, dtype=torch.float64))  # like _seen, summed over its steps
        #: For each batch of the step, of all ranks: the sum over its labelled images, and their number.
        self._seen: list[Tensor] = []

    @property
    def mean(self) -> Tensor:
        """The mean of the last pass, a float64 scalar; 0 before it."""
        total, number = self.of_last_pass
        mean: Tensor = total / number.clamp(min=1)
        return mean

    @property
    def steps_since(self) -> Tensor:
        """The optimizer steps made since the end of the warm-up, an int64 scalar; below 0 before it."""
        return self.num_steps - self.steps

    @torch.no_grad()
    def see(self, quantity: Tensor) -> None:
        """Take what the labelled images of one batch show.

        Args:
            quantity: ``(B,)`` float, one number for each image.
        """
        quantity = quantity.double()
        self._seen.append(all_reduce_sum_(torch.stack([quantity.sum(), quantity.new_full((), len(quantity))])))

    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Count the step, and add what its images showed where it is of the last pass."""
        seen = torch.stack(self._seen).sum(dim=0)
        to_come = -self.steps_since - 1  # steps of the warm-up after this one
        is_of_last_pass = (to_come >= 0) & (to_come * seen[1] < self.num_labelled)
        self.of_last_pass += torch.where(is_of_last_pass, seen, 0.0)
        self.num_steps += 1
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []
