"""The last features of each class, and how often each class is given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.distributed import all_gather_rows, all_reduce_sum_
from layermatch.errors import check_number
from layermatch.parts.step import Step, StepState

__all__ = ["ClassQueue", "PeriodicShares"]


class ClassQueue(StepState):
    r"""The last L features of labelled images of each class, the same on every rank.

    The mean of a class's queue is its prototype. As every queue has the same length, a class of few images has a
    prototype of as many features as one of many.

    .. math:: c_k = \frac{1}{|Q_k|} \sum_{z \in Q_k} z

    Source: DASO (Oh et al. 2022, section 3.2). It takes ``4 K L D`` bytes.

    Args:
        num_classes: K.
        num_features: D.
        length: L, at least 1.

    Raises:
        UserError: The length is out of range.

    Example:
        >>> queue = ClassQueue(num_classes=2, num_features=1, length=2)
        >>> queue.see(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1, 1, 1]))
        >>> queue.prototypes
        tensor([[0.],
                [3.]])
    """

    entries: Tensor
    seen: Tensor

    def __init__(self, *, num_classes: int, num_features: int, length: int) -> None:
        super().__init__()
        check_number("queue", length, low=1, integer=True)
        self.length = length
        #: ``(K, L, D)``: the i-th feature ever seen of a class is in row i mod L.
        self.register_buffer("entries", torch.zeros(num_classes, length, num_features))
        #: ``(K,)``: the features ever seen of each class.
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))
        #: Entries and counts with the batches of the step in them.
        self._moved: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def see(self, features: Tensor, label: Tensor) -> None:
        """Take what one batch shows.

        Args:
            features: ``(B, D)``; every rank gives as many.
            label: ``(B,)`` int64.
        """
        entries, seen = (self.entries.clone(), self.seen) if self._moved is None else self._moved
        features, label = all_gather_rows(features.detach()), all_gather_rows(label)
        membership = F.one_hot(label, len(seen))  # (B, K)
        added = membership.sum(dim=0)
        place = (membership.cumsum(dim=0) - 1).gather(1, label[:, None])[:, 0]  # among those of its class
        stays = place >= (added - self.length)[label]  # more than L of one class in a batch: the last L stay
        label, place = label[stays], place[stays]
        entries[label, (seen[label] + place) % self.length] = features[stays].to(entries.dtype)
        self._moved = entries, seen + added

    @property
    def prototypes(self) -> Tensor:
        """The mean of each class's queue with this step's batches in it, ``(K, D)``; 0 for a class not seen yet."""
        entries, seen = (self.entries, self.seen) if self._moved is None else self._moved
        return entries.sum(dim=1) / seen.clamp(min=1, max=self.length)[:, None]

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Keep the batches of the step."""
        if self._moved is not None:
            self.entries.copy_(self._moved[0])
            self.seen.copy_(self._moved[1])
        self._moved = None

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._moved = None


class PeriodicShares(StepState):
    """How often each class was given in the last full period of steps, the same on every rank.

    Source: the code of DASO (Oh et al. 2022), which counts anew every 100 steps.

    Args:
        num_classes: K.
        period: The steps of a period, at least 1.

    Raises:
        UserError: The period is out of range.
    """

    counts: Tensor
    value: Tensor

    def __init__(self, *, num_classes: int, period: int) -> None:
        super().__init__()
        check_number("period", period, low=1, integer=True)
        self.period = period
        self.register_buffer("counts", torch.zeros(num_classes))
        #: ``(K,)``, the shares; all 0 until the first period has passed.
        self.register_buffer("value", torch.zeros(num_classes))
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def see(self, label: Tensor) -> None:
        """Count the labels of one batch.

        Args:
            label: ``(N,)`` int64.
        """
        self._seen.append(all_reduce_sum_(F.one_hot(label, len(self.counts)).sum(dim=0).to(self.counts.dtype)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Add the batches of the step, and begin a new period where one ends with it."""
        for counts in self._seen:
            self.counts += counts
        self._seen = []
        if (step.number + 1) % self.period == 0:
            self.value.copy_(self.counts / self.counts.sum().clamp(min=1))
            self.counts.zero_()

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []
