"""A fixed threshold with the probabilities themselves as targets."""

from __future__ import annotations

from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["SoftThreshold"]


class SoftThreshold(FixedThreshold):
    r"""Probabilities as targets where the confidence reaches a fixed threshold.

    .. math:: \hat y = p, \qquad m = \mathbf{1}[\max p \ge \tau]

    Source: CoMatch (Li et al. 2021, eq. 5), SimMatch (Zheng et al. 2022, eq. 2) and ShrinkMatch (Yang et al. 2023),
    whose p is aligned and smoothed before.

    Args:
        threshold: ``tau``, in ``(0, 1]``.

    Raises:
        UserError: The threshold is out of range.

    Example:
        >>> import torch
        >>> policy = SoftThreshold(threshold=0.9)
        >>> policy(Predictions(torch.tensor([[0.75, 0.25]]), torch.tensor([0]))).target
        tensor([[0.7500, 0.2500]])
    """

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        return super().forward(predictions)._replace(target=predictions.probs_weak)
