"""FreeMatch's policy: thresholds that follow the network's confidence in each class."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import UserError, check_number
from layermatch.functional import (
    class_histogram,
    confidence_mask,
    fairness_loss,
    hard_pseudo_labels,
    self_adaptive_thresholds,
)
from layermatch.networks import Output
from layermatch.parts import PSEUDO_LABELS, Losses, Problem, RunningMean, Term
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["SelfAdaptiveThreshold"]


class SelfAdaptiveThreshold(Policy):
    r"""Hard labels where the confidence reaches a threshold of the class, which the unlabelled images themselves set.

    .. math::
        \tau &\leftarrow \beta \tau + (1 - \beta) \frac{1}{N} \sum_u \max p_u, \qquad
        \tilde p \leftarrow \beta \tilde p + (1 - \beta) \frac{1}{N} \sum_u p_u \\
        m_u &= \mathbf{1}\left[\max p_u \ge \frac{\tilde p(\hat y_u)}{\max_c \tilde p(c)} \, \tau\right]

    Both start at ``1 / K`` and move before the mask of the same step. A loss of its own teaches the accepted strong
    views to be of all classes; see :func:`~layermatch.functional.fairness_loss`.

    Source: FreeMatch (Wang et al. 2023, section 3).

    NOTE: The weight of the fairness loss is 0.01 in TorchSSL and 0.001 in USB. USB clips the stored global threshold at
    0.95 (``clip_thresh``), not those of the classes; that form is not offered.

    NOTE: Under DDP the fairness loss compares the means of each rank's own images, as in USB; it is no mean over
    images, so two ranks do not learn quite what one with the whole batch does. The thresholds are those of all ranks.

    Args:
        decay: ``beta``, in ``[0, 1)``.
        fairness: The weight of the fairness loss, at least 0.
        low: The lowest threshold of a class, in ``[0, 1]``; for SVHN 0.9.
        high: The highest one, in ``[0, 1]`` and not below ``low``; for SVHN 0.95.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> policy = SelfAdaptiveThreshold(decay=0.5)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))).weight
        tensor([1., 0.])
    """

    def __init__(self, *, decay: float = 0.999, fairness: float = 0.01, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        check_number("decay", decay, low=0, high=1, high_open=True)
        check_number("fairness", fairness, low=0)
        check_number("low", low, low=0, high=1)
        check_number("high", high, low=0, high=1)
        if low > high:
            raise UserError(f"low={low} is not legal: give at most high={high}")
        self.decay, self.fairness, self.low, self.high = decay, fairness, low, high

    def prepare(self, problem: Problem) -> None:
        """Start all averages at ``1 / K``; see :class:`Policy`."""
        uniform = torch.full((problem.num_classes,), 1 / problem.num_classes)
        self.confidence = RunningMean(uniform[0], decay=self.decay)
        self.probs = RunningMean(uniform, decay=self.decay)
        self.histogram = RunningMean(uniform, decay=self.decay)

    def thresholds(self) -> Tensor:
        """Return the threshold of each class after the last step."""
        return self._thresholds(self.confidence.value, self.probs.value)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        probs = predictions.probs_weak
        label, confidence = hard_pseudo_labels(probs)
        self.confidence.see(confidence.mean())
        self.probs.see(probs.mean(dim=0))
        self.histogram.see(class_histogram(label, probs.shape[1], torch.ones_like(confidence)))
        thresholds = self._thresholds(self.confidence.moved, self.probs.moved)
        return PseudoLabels(label, confidence_mask(confidence, thresholds[label]), label, confidence)

    def losses(self, strong: Output, pseudo_labels: PseudoLabels, predictions: Predictions) -> Losses:  # noqa: ARG002
        """Return the fairness loss; see :class:`Policy`."""
        if not self.fairness:
            return Losses()
        loss = fairness_loss(strong.logits, pseudo_labels.weight, self.probs.moved, self.histogram.moved)
        return Losses(fairness=Term(loss, PSEUDO_LABELS, weight=self.fairness))

    def _thresholds(self, confidence: Tensor, probs: Tensor) -> Tensor:
        return self_adaptive_thresholds(confidence, probs, low=self.low, high=self.high)
