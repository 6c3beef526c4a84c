"""A fixed threshold on an average of each image's outputs over time."""

from __future__ import annotations

from layermatch.parts import OutputAverage, Problem
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["AveragedOutputs"]


class AveragedOutputs(FixedThreshold):
    r"""Hard labels of each image's averaged outputs, where their confidence reaches a fixed threshold.

    .. math::
        \hat p_i = (1 - a) p_i + a P_i, \qquad \hat y = \arg\max \hat p, \quad m = \mathbf{1}[\max \hat p \ge \tau]

    with the running average P of :class:`~layermatch.parts.OutputAverage`. Source: ours, after Temporal Ensembling
    (Laine and Aila 2017).

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        share: ``a``, the share of the average, in ``[0, 1]``; 1 is the average alone.
        decay: The decay of the average, in ``[0, 1)``.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> import torch
        >>> policy = AveragedOutputs(threshold=0.7, share=1.0)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.8, 0.2]]), torch.tensor([3]))).weight
        tensor([1.])
    """

    def __init__(self, *, threshold: float = 0.95, share: float = 0.5, decay: float = 0.9) -> None:
        super().__init__(threshold=threshold)
        self.outputs = OutputAverage(share=share, decay=decay)

    def prepare(self, problem: Problem) -> None:
        """Start an empty table; see :class:`Policy`."""
        super().prepare(problem)
        self.outputs.prepare(problem)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        mixture = self.outputs(predictions.probs_weak, predictions.indices)
        return super().forward(predictions._replace(probs_weak=mixture))
