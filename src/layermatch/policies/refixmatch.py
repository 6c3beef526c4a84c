"""ReFixMatch's policy: what is not confident enough for a label still says something."""

from __future__ import annotations

from typing import ClassVar

from layermatch.errors import check_number
from layermatch.functional import divergence_loss, sharpen
from layermatch.networks import Output
from layermatch.parts import PSEUDO_LABELS, Losses, Term
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["ReFixMatch"]


class ReFixMatch(FixedThreshold):
    r"""FixMatch's labels for confident images; the others are drawn to the sharpened prediction of their weak view.

    .. math:: L_r = \frac{1}{N} \sum_u (1 - m_u) \, \mathrm{KL}\left(\mathrm{softmax}(\mathrm{sg}(\ell^w_u) / T)
        \,\|\, \mathrm{softmax}(\ell^s_u)\right)

    Source: ReFixMatch (Nguyen and Yang 2023, arXiv 2308.07509), from the authors' code (beandkay/SequenceMatch).

    NOTE: USB's version puts the weak view's probabilities through a softmax once more, which makes targets nearly
    uniform, and divides the strong view's logits by the temperature too. The authors' code, which is followed here,
    does neither.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        temperature: ``T`` of the targets, above 0.
        weight: The weight of the loss, at least 0; the authors give it that of the pseudo-label loss.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> ReFixMatch(temperature=0.5).temperature
        0.5
    """

    needs_masked: ClassVar[bool] = True

    def __init__(self, *, threshold: float = 0.95, temperature: float = 0.5, weight: float = 1.0) -> None:
        super().__init__(threshold=threshold)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("weight", weight, low=0)
        self.temperature = temperature
        self.weight = weight

    def losses(self, strong: Output, pseudo_labels: PseudoLabels, predictions: Predictions) -> Losses:
        """Return the loss of the images that are not confident; see the class."""
        target = sharpen(predictions.probs_weak, self.temperature)
        loss = divergence_loss(strong.logits, target, 1 - pseudo_labels.weight)
        return Losses(low_confidence=Term(loss, PSEUDO_LABELS, weight=self.weight))
