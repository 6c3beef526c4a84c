"""An exponential moving average of what each batch shows."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_mean_
from layermatch.errors import check_number
from layermatch.functional import ema
from layermatch.parts.step import Step, StepState

__all__ = ["RunningMean"]


class RunningMean(StepState):
    r"""The running mean of a quantity of the batches, the same on every rank.

    .. math:: a \leftarrow \beta a + (1 - \beta) v

    once per optimizer step, with v the mean over the step's batches and over all ranks. Within a step :attr:`value` is
    the average without these batches, and :attr:`moved` the one with them.

    Args:
        start: The first average, float of any shape.
        decay: ``beta``, in ``[0, 1)``.

    Raises:
        UserError: The decay is out of range.

    Example:
        >>> running = RunningMean(torch.tensor(0.5), decay=0.9)
        >>> running.see(torch.tensor(1.0))
        >>> running.value, running.moved
        (tensor(0.5000), tensor(0.5500))
    """

    value: Tensor

    def __init__(self, start: Tensor, *, decay: float) -> None:
        super().__init__()
        check_number("decay", decay, low=0, high=1, high_open=True)
        self.decay = decay
        self.register_buffer("value", start.detach().clone())
        #: What each batch of the step showed, mean over all ranks.
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def see(self, value: Tensor) -> None:
        """Take what one batch shows.

        Args:
            value: A quantity of the average's shape. Ranks are averaged, so their parts of a batch must count alike.
        """
        self._seen.append(all_reduce_mean_(value.detach().clone()))

    @property
    def moved(self) -> Tensor:
        """The average with the batches of this step in it."""
        if not self._seen:
            return self.value
        return ema(self.value, torch.stack(self._seen).mean(dim=0), self.decay)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Move the average by the batches of the step."""
        self.value.copy_(self.moved)
        self._seen = []

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []
