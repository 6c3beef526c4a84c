"""A running mean that starts at what the first step shows."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.parts.running import RunningMean
from layermatch.parts.step import Step

__all__ = ["StartedMean"]


class StartedMean(RunningMean):
    r"""The running mean of a quantity, which has no value before the first step.

    .. math:: a_0 = v_0, \qquad a_t = \beta a_{t-1} + (1 - \beta) v_t

    See :class:`RunningMean` for what a step and a rank show.

    Args:
        like: Gives shape and dtype; its values are not read.
        decay: ``beta``, in ``[0, 1)``.

    Raises:
        UserError: The decay is out of range.

    Example:
        >>> mean = StartedMean(torch.tensor(0.0), decay=0.9)
        >>> mean.see(torch.tensor(0.5))
        >>> mean.value, mean.moved
        (tensor(0.), tensor(0.5000))
    """

    is_started: Tensor

    def __init__(self, like: Tensor, *, decay: float) -> None:
        super().__init__(torch.zeros_like(like), decay=decay)
        self.register_buffer("is_started", torch.zeros((), dtype=torch.bool))

    @property
    def moved(self) -> Tensor:
        """The average with the batches of this step in it."""
        if not self._seen:
            return self.value
        return torch.where(self.is_started, super().moved, torch.stack(self._seen).mean(dim=0))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the average by the batches of the step."""
        super().after_step(step)
        self.is_started.fill_(True)
