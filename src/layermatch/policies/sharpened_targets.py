"""UDA's policy: soft targets at a low temperature, where the network is confident."""

from __future__ import annotations

from layermatch.errors import check_number
from layermatch.functional import sharpen
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["SharpenedTargets"]


class SharpenedTargets(FixedThreshold):
    r"""Sharpened probabilities where the confidence, before it is sharpened, reaches a fixed threshold.

    .. math:: q_k = \frac{p_k^{1/T}}{\sum_j p_j^{1/T}}, \qquad m = \mathbf{1}[\max p \ge \tau]

    Source: UDA (Xie et al. 2020, "Confidence-based masking" and "Sharpening Predictions").

    NOTE: The loss is the cross-entropy with q as in TorchSSL and USB; UDA's is the divergence KL(q || .), which has the
    same gradient and is smaller by the entropy of q. USB names a temperature and does not apply it (q = p): that is
    ``temperature=1``.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        temperature: ``T``, above 0; 1 leaves the probabilities as they are.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> import torch
        >>> policy = SharpenedTargets(threshold=0.7, temperature=0.5)
        >>> found = policy(Predictions(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 1])))
        >>> found.target, found.weight
        (tensor([[0.9000, 0.1000],
                [0.5000, 0.5000]]), tensor([1., 0.]))
    """

    def __init__(self, *, threshold: float = 0.8, temperature: float = 0.4) -> None:
        super().__init__(threshold=threshold)
        check_number("temperature", temperature, low=0, low_open=True)
        self.temperature = temperature

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        hard = super().forward(predictions)
        return hard._replace(target=sharpen(predictions.probs_weak, self.temperature))
