"""DebiasPL's policy: pseudo-labels without the average prediction, and a margin for frequent classes."""

from __future__ import annotations

import torch

from layermatch.errors import check_number
from layermatch.functional import confidence_mask, debiased_probabilities, hard_pseudo_labels
from layermatch.parts import Problem, RunningMean
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["DebiasedThreshold"]


class DebiasedThreshold(FixedThreshold):
    r"""A fixed threshold on debiased probabilities, and an adaptive margin in the loss.

    .. math::
        \tilde p &= \mathrm{softmax}(z_w - \lambda \log \bar p), \qquad \hat y = \arg\max \tilde p, \qquad
        m = \mathbf{1}[\max \tilde p \ge \tau] \\
        L_u &= \frac{1}{N} \sum_u m_u H(\hat y_u, z_s + \lambda \log \bar p)

    with :math:`\bar p \leftarrow \beta \bar p + (1 - \beta) \frac{1}{N} \sum_u \mathrm{softmax}(z_w)`, which starts
    at ``1 / K``. As in the authors' code, targets are debiased by the average before the step and the margin is made of
    the one after it. Source: DebiasPL (Wang et al. 2022, section 4).

    NOTE: The authors' code runs with 0.4 or 0.5, and the Transfer-Learning-Library with 1, in place of lambda.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        strength: ``lambda``, at least 0.
        decay: ``beta``, in ``[0, 1)``.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> policy = DebiasedThreshold(threshold=0.6, strength=1.0, decay=0.5)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]))).margin
        tensor([-0.5108, -0.9163])
    """

    def __init__(self, *, threshold: float = 0.95, strength: float = 0.5, decay: float = 0.999) -> None:
        super().__init__(threshold=threshold)
        check_number("strength", strength, low=0)
        check_number("decay", decay, low=0, high=1, high_open=True)
        self.strength, self.decay = strength, decay

    def prepare(self, problem: Problem) -> None:
        """Start the average at ``1 / K``; see :class:`Policy`."""
        super().prepare(problem)
        self.average = RunningMean(torch.full((problem.num_classes,), 1 / problem.num_classes), decay=self.decay)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        probs = debiased_probabilities(predictions.probs_weak, self.average.value, strength=self.strength)
        self.average.see(predictions.probs_weak.mean(dim=0))
        label, confidence = hard_pseudo_labels(probs)
        margin = self.strength * self.average.moved.log()
        return PseudoLabels(label, confidence_mask(confidence, self.threshold), label, confidence, margin)
