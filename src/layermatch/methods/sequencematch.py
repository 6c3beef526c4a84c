"""SequenceMatch: a medium view between the weak and the strong one."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from layermatch.data.batch import Views
from layermatch.errors import check_number
from layermatch.functional import (
    confidence_mask,
    divergence_loss,
    hard_pseudo_labels,
    probabilities,
    sharpen,
)
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.parts import PSEUDO_LABELS, Losses, Step, Term

__all__ = ["SequenceMatch"]


class SequenceMatch(PseudoLabelling):
    r"""FixMatch, and each view follows the sharpened prediction of every weaker one: weak, medium, strong.

    .. math::
        L = L_s + \lambda_u \left[ L_u + D(m, w) + D(s, m) + D(s, w) \right], \qquad
        D(a, b) = \frac{1}{N} \sum_u \mathbf{1}[\max p^b_u \ge \tau] \,
        \mathrm{KL}\left(\mathrm{softmax}(\mathrm{sg}(\ell^b_u) / T) \,\|\, \mathrm{softmax}(\ell^a_u)\right)

    with ``p`` the probabilities of a view, not sharpened. ``L_u`` is the loss of the policy and the rule; the authors'
    policy is FlexMatch's, and ``D`` has a fixed threshold all the same. Every ``D`` goes where the rule lets it. The
    medium view has one random operation where the strong one has three (``views.medium_ops``).

    Source: SequenceMatch (Nguyen 2023, arXiv 2310.15787), from the authors' code (beandkay/SequenceMatch).

    NOTE: The abstract speaks of another constraint for low-confidence predictions. In the authors' code that is
    ReFixMatch's loss, which their settings switch off; here it is ``pseudo_labels=refixmatch``.

    NOTE: USB's version masks all of ``D`` by the weak view, and puts probabilities through a softmax once more, which
    makes targets nearly uniform; the authors' code, which is followed here, does neither.

    Args:
        threshold: ``tau``, the confidence of the weaker view that ``D`` asks for, in ``(0, 1]``.
        temperature: ``T`` of its targets, above 0.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`, but ``skip_masked``: a strong view that the
            policy masks still follows the medium one.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import FixedThreshold
        >>> list(SequenceMatch(policy=FixedThreshold(), rule=Uniform()).views.unlabelled)
        ['weak', 'strong', 'medium']
    """

    views: ClassVar[Views] = Views(unlabelled={"weak": "weak", "strong": "strong", "medium": "medium"})
    needs_masked: ClassVar[bool] = True

    def __init__(self, *, threshold: float = 0.95, temperature: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        check_number("threshold", threshold, low=0, high=1, low_open=True)
        check_number("temperature", temperature, low=0, low_open=True)
        self.threshold = threshold
        self.temperature = temperature

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return what each view learns from the weaker ones; see the class."""
        medium, strong = (self.rule.route(step.network, seen.views[name]).logits for name in ("medium", "strong"))
        weak, of_medium = seen.predictions.probs_weak, probabilities(medium)
        values = {
            "medium_from_weak": self.follow(medium, weak),
            "strong_from_medium": self.follow(strong, of_medium),
            "strong_from_weak": self.follow(strong, weak),
        }
        reaches, weight = self.rule.reached, self.rule.lambda_u
        return Losses({name: Term(value, PSEUDO_LABELS, reaches, weight) for name, value in values.items()})

    def follow(self, logits: Tensor, probs: Tensor) -> Tensor:
        """Compute ``D``, how far a view is from what a weaker one says, where that one is confident.

        Args:
            logits: ``(N, K)`` of the view.
            probs: ``(N, K)`` of the weaker view, without a gradient.
        """
        _, confidence = hard_pseudo_labels(probs)
        mask = confidence_mask(confidence, self.threshold)
        return divergence_loss(logits, sharpen(probs, self.temperature), mask)
