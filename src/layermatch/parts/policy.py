"""What every pseudo-label policy gives and takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from layermatch.networks import Output
from layermatch.parts.losses import Losses
from layermatch.parts.step import Problem, StepState

__all__ = ["Policy", "PseudoLabels"]


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


class Policy(StepState, ABC):
    """Decides which unlabelled samples count, with what target and weight."""

    def prepare(self, problem: Problem) -> None:
        """Make the state for a problem. This is called once, before training; by default there is none."""

    def thresholds(self) -> Tensor | None:
        """The confidence that a pseudo-label of each class needs now, ``(K,)``, for the log.

        By default it is None: a policy need not have thresholds.
        """
        return None

    @abstractmethod
    def forward(self, probs_weak: Tensor, indices: Tensor) -> PseudoLabels:
        """Pseudo-labels of a batch.

        Args:
            probs_weak: ``(N, K)`` float32 probabilities of the weak views, without a gradient.
            indices: ``(N,)`` int64, positions in the unlabelled pool.
        """

    def losses(self, strong: Output, pseudo_labels: PseudoLabels) -> Losses:  # noqa: ARG002 -- for those that have some
        """Losses of the policy's own, such as FreeMatch's fairness; by default none.

        Args:
            strong: The outputs of the strong views, routed as the pseudo-label loss is: where that may not reach the
                classifier, the classifier is detached here too.
            pseudo_labels: The pseudo-labels of these ``N`` images.
        """
        return Losses()
