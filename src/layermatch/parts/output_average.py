"""An average of each image's own outputs over time."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_gather_rows
from layermatch.errors import check_number
from layermatch.functional import bias_corrected_ema, ema
from layermatch.parts.step import Problem, Step, StepState

__all__ = ["OutputAverage"]


class OutputAverage(StepState):
    r"""Mixes the probabilities of each unlabelled image with the average of those that it had before.

    .. math::
        P_i \leftarrow \beta P_i + (1 - \beta) p_i \text{ (bias-corrected)}, \qquad \hat p_i = (1 - a) p_i + a P_i

    Source: Temporal Ensembling (Laine and Aila 2017, algorithm 1), which is ``a`` = 1; the mixture is ours.

    Memory: ``4 K`` bytes per unlabelled image. Under DDP every rank holds the whole table and sees every update.

    Args:
        share: ``a``, in ``[0, 1]``.
        decay: ``beta``, in ``[0, 1)``.

    Raises:
        UserError: A value is out of range.
    """

    average: Tensor
    num_updates: Tensor

    def __init__(self, *, share: float = 0.5, decay: float = 0.9) -> None:
        super().__init__()
        check_number("share", share, low=0, high=1)
        check_number("decay", decay, low=0, high=1, high_open=True)
        self.share = share
        self.decay = decay
        #: The indices and outputs of the step's batches, of all ranks.
        self._seen: list[tuple[Tensor, Tensor]] = []

    def prepare(self, problem: Problem, *, device: torch.device | None = None) -> None:
        """Start an empty table.

        Args:
            problem: Gives the size of the pool and the number of classes.
            device: The device that the table is made on; None is the CPU.
        """
        rows, num_classes = problem.num_unlabelled, problem.num_classes
        self.register_buffer("average", torch.zeros(rows, num_classes, device=device))
        self.register_buffer("num_updates", torch.zeros(rows, dtype=torch.int64, device=device))

    @torch.no_grad()
    def forward(self, probs: Tensor, indices: Tensor) -> Tensor:
        """Return the mixture of a batch's outputs and of the average with these outputs in it.

        Args:
            probs: ``(N, K)`` float, probabilities.
            indices: ``(N,)`` int64, the images' positions in the pool.

        Returns:
            ``(N, K)``.
        """
        batch = all_gather_rows(indices), all_gather_rows(probs)
        self._seen.append(batch)
        rows, updated, num_updates = self._moved(*batch)
        place = torch.searchsorted(rows, indices)
        average = bias_corrected_ema(updated[place], num_updates[place], self.decay)
        return (1 - self.share) * probs + self.share * average

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Move the rows of the images that the step had."""
        if not self._seen:
            return
        indices, probs = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        rows, updated, num_updates = self._moved(indices, probs)
        self.average[rows] = updated
        self.num_updates[rows] = num_updates
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the outputs of the step."""
        self._seen = []

    def _moved(self, indices: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of some images, in order, and what they are with these outputs in them."""
        # An image that is there twice (a small pool) counts once, with the mean of its outputs.
        rows, position = torch.unique(indices, return_inverse=True)
        sums = probs.new_zeros(len(rows), probs.shape[1])
        # Not index_add: the order of its additions is not fixed on CUDA, and ranks would differ.
        sums.index_put_((position,), probs, accumulate=True)
        mean = sums / position.bincount(minlength=len(rows))[:, None]
        return rows, ema(self.average[rows], mean, self.decay), self.num_updates[rows] + 1
