"""What every pseudo-label policy gives and takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["PseudoLabelPolicy", "PseudoLabels"]


class PseudoLabels(NamedTuple):
    """Targets of a batch of unlabelled samples, none of them with a gradient.

    Attributes:
        target: ``(N,)`` int64 class indices, or ``(N, K)`` float probabilities: what the losses compare with.
        weight: ``(N,)`` float32 in ``[0, 1]``: how much each sample counts (the mask).
        label: ``(N,)`` int64: the most probable class, for centres and diagnostics.
        confidence: ``(N,)`` float: its probability.
    """

    target: Tensor
    weight: Tensor
    label: Tensor
    confidence: Tensor


class PseudoLabelPolicy(nn.Module, ABC):
    """Decides which unlabelled samples count, with what target and weight.

    State lives in buffers, so it is saved with the checkpoint, and must come out the same on every rank.
    """

    def prepare(self, *, num_classes: int, num_unlabelled: int) -> None:
        """Make the state for a problem of this size. Called once, before training; by default there is none.

        Args:
            num_classes: ``K``.
            num_unlabelled: images in the unlabelled pool.
        """

    def thresholds(self) -> Tensor | None:
        """The confidence that a pseudo-label of each class needs now, ``(K,)``, for the log.

        By default None: a policy need not have thresholds.
        """
        return None

    @abstractmethod
    def forward(self, probs_weak: Tensor, index: Tensor) -> PseudoLabels:
        """Pseudo-labels of a batch.

        Args:
            probs_weak: ``(N, K)`` float32 probabilities of the weak views, without a gradient.
            index: ``(N,)`` int64, positions in the unlabelled pool.
        """
