"""FixMatch's policy: one fixed confidence threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import check_number
from layermatch.functional import confidence_mask, hard_pseudo_labels
from layermatch.parts import Problem
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["FixedThreshold"]


class FixedThreshold(Policy):
    r"""Hard labels where the confidence reaches a fixed threshold.

    .. math:: \hat y = \arg\max p, \qquad m = \mathbf{1}[\max p \ge \tau]

    Source: FixMatch (Sohn et al. 2020, eq. 4).

    Args:
        threshold: ``tau``, in ``(0, 1]``.

    Raises:
        UserError: The threshold is out of range.

    Example:
        >>> import torch
        >>> policy = FixedThreshold(threshold=0.95)
        >>> policy(Predictions(torch.tensor([[0.97, 0.03], [0.5, 0.5]]), torch.tensor([0, 1]))).weight
        tensor([1., 0.])
    """

    def __init__(self, *, threshold: float = 0.95) -> None:
        super().__init__()
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        self.threshold = threshold
        self.num_classes = 0

    def prepare(self, problem: Problem) -> None:
        """See how many classes there are."""
        self.num_classes = problem.num_classes

    def thresholds(self) -> Tensor:
        """Return the threshold, which is the same for every class."""
        return torch.full((self.num_classes,), self.threshold, dtype=torch.float64)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        label, confidence = hard_pseudo_labels(predictions.probs_weak)
        return PseudoLabels(label, confidence_mask(confidence, self.threshold), label, confidence)
