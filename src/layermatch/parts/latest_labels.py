"""What each image of the pool was last said to be with confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_gather_rows
from layermatch.errors import check_number
from layermatch.functional import last_of_each
from layermatch.parts.step import Step, StepState

__all__ = ["LatestLabels"]


class LatestLabels(StepState):
    """The latest confident class of every image of the pool, and how many images have each; the same on every rank.

    It takes 8 bytes per image of the pool. The counts move by the images of a step alone: no step looks at the whole
    pool. Source: FlexMatch (Zhang et al. 2021), and the code of FineSSL (Gan and Wei 2024), whose epochs begin anew.

    Args:
        num_classes: K.
        pool: The number of images in the pool.
        period: The steps after which they are forgotten, at least 1; None never forgets them.

    Raises:
        UserError: The period is out of range.

    Example:
        >>> latest = LatestLabels(num_classes=2, pool=4)
        >>> latest.see(torch.tensor([3, 0]), torch.tensor([1, 0]), torch.tensor([True, False]))
        >>> latest.after_step(Step(None, None, 0, 10, None, None))
        >>> latest.counts
        tensor([0, 1, 3])
    """

    latest: Tensor
    counts: Tensor

    def __init__(self, *, num_classes: int, pool: int, period: int | None = None) -> None:
        super().__init__()
        if period is not None:
            check_number("period", period, low=1, integer=True)
        self.num_classes, self.pool, self.period = num_classes, pool, period
        #: ``(pool,)``, the class after the last one where nothing was said yet.
        self.register_buffer("latest", torch.full((pool,), num_classes))
        #: ``(K + 1,)``, the images of each class, and last those of none.
        self.register_buffer("counts", torch.tensor([0] * num_classes + [pool]))
        #: For each batch of the step, of all ranks: the images, and their classes where the network is sure.
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def see(self, indices: Tensor, label: Tensor, is_sure: Tensor) -> None:
        """Take what one batch shows.

        Args:
            indices: ``(N,)`` int64, the positions of the images in the pool.
            label: ``(N,)`` int64.
            is_sure: ``(N,)`` bool.
        """
        label = torch.where(is_sure, label, self.num_classes)
        self._seen.append(all_gather_rows(torch.stack([indices, label], dim=1)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Note what the network was sure of, and forget everything where a period ends."""
        seen = torch.cat(self._seen) if self._seen else self.latest.new_zeros(0, 2)
        seen = seen[seen[:, 1] < self.num_classes]
        indices, label = seen[last_of_each(seen[:, 0])].unbind(dim=1)
        size = self.num_classes + 1
        self.counts += label.bincount(minlength=size) - self.latest[indices].bincount(minlength=size)
        self.latest[indices] = label
        if self.period is not None and (step.number + 1) % self.period == 0:
            self.latest.fill_(self.num_classes)
            self.counts.zero_()
            self.counts[-1] = self.pool
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []
