"""AdaMatch: strong labelled views, logits between two passes, and a weight that waits for the labels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.errors import UserError, check_bool, check_number
from layermatch.functional import cosine_ramp, interpolate_logits, supervised_loss
from layermatch.methods.passes import keep_running_statistics, together
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import CLASSIFIER, EXTRACTOR, Network, Output
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses, Step, Term

__all__ = ["AdaMatch"]

LABELLED, LABELLED_STRONG = "labelled", "labelled/strong"


class AdaMatch(PseudoLabelling):
    r"""Pseudo-labelling with weak and strong labelled views, and labelled logits between those of two passes.

    1. ``z'`` of all views in one pass; ``z''`` of the labelled views in a second one, which leaves the running
       statistics as they are. ``z = z' + u (z'' - z')`` with u uniform in ``[0, 1)`` for each labelled logit.
    2. Pseudo-labels from the policy, which sees the probabilities of z for the weak labelled views.
    3. The loss

    .. math:: L = \tfrac{1}{2} H(y, z_w) + \tfrac{1}{2} H(y, z_s) + \lambda_u \, r(t) \, L_u, \qquad
        r(t) = \tfrac{1}{2} - \tfrac{1}{2} \cos\left(\pi \min(1, t / \rho)\right)

    Source: AdaMatch (Berthelot et al. 2022) and its authors' code, with the policy
    :class:`~layermatch.policies.RelativeThreshold`; any policy and any rule will do.

    Args:
        ramp: ``rho``, the share of the run in which the weight of pseudo-labels grows from 0, in ``[0, 1]``.
        interpolate: Whether there is a second pass; False takes ``z = z'`` and saves its time.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import RelativeThreshold
        >>> dict(AdaMatch(policy=RelativeThreshold(), rule=Uniform()).views.labelled)
        {'weak': 'weak', 'strong': 'strong'}
    """

    views: ClassVar[Views] = Views(
        labelled={"weak": "weak", "strong": "strong"}, unlabelled={"weak": "weak", "strong": "strong"}
    )

    def __init__(self, *, ramp: float = 0.5, interpolate: bool = True, **options: Any) -> None:
        super().__init__(**options)
        check_number("ramp", ramp, low=0, high=1)
        check_bool("interpolate", interpolate)
        if interpolate and self.skip_masked:
            raise UserError(
                "skip_masked=true needs interpolate=false: labelled views are sent through a second time beside all "
                "others, and masked ones are left out"
            )
        self.ramp = ramp
        self.interpolate = interpolate

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch; see the class."""
        ramp, losses = cosine_ramp(step.progress, length=self.ramp), super().losses(batch, step)
        for name, term in losses.items():
            if term.source == PSEUDO_LABELS:
                losses[name] = term._replace(weight=ramp * term.weight)
        for name in ("supervised", "supervised_strong"):
            losses[name] = losses[name]._replace(weight=0.5)
        return losses

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:  # noqa: ARG002 -- see PseudoLabelling
        """Return the loss of the strong labelled views; see :class:`PseudoLabelling`."""
        loss = supervised_loss(seen.views[LABELLED_STRONG].logits, seen.batch.labelled.label)
        return Losses(supervised_strong=Term(loss, LABELS, frozenset({EXTRACTOR, CLASSIFIER})))

    def send(self, views: dict[str, Tensor], weak: Tensor, network: Network) -> tuple[dict[str, Output], Output]:
        """Return all views through the network, and the labelled ones a second time on their own."""
        out, out_weak = super().send(views, weak, network)
        if self.interpolate:
            labelled = {name: views[name] for name in (LABELLED, LABELLED_STRONG)}
            with keep_running_statistics(network):
                alone = together(network, labelled)
            for name in labelled:
                logits = interpolate_logits(out[name].logits, alone[name].logits, self.draw(name, out[name].logits))
                out[name] = Output(out[name].features, {**out[name].heads, CLASSIFIER: logits})
        return out, out_weak

    def draw(self, name: str, logits: Tensor) -> Tensor:  # noqa: ARG002 -- for who gives numbers of their own
        """Return the place of each logit between the two passes.

        Args:
            name: The view.
            logits: ``(B, K)``.

        Returns:
            ``(B, K)``, uniform in ``[0, 1)``.
        """
        return torch.rand_like(logits)
