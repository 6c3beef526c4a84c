"""ShrinkMatch: uncertain images learn among the classes that leave them certain."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from layermatch.errors import check_number
from layermatch.functional import shrink_loss
from layermatch.methods.pseudo_labelling import BatchOutputs
from layermatch.methods.queue_aligned import QueueAligned
from layermatch.networks import EXTRACTOR
from layermatch.parts import PSEUDO_LABELS, Losses, Problem, RunningFromFirst, Step, Term

__all__ = ["ShrinkMatch"]

#: The head that learns in the shrunk class space, and is not evaluated.
AUXILIARY = "auxiliary"


class ShrinkMatch(QueueAligned):
    r"""The rivals of an uncertain image's class are taken out until it is certain among those that stay.

    One step:

    1. ``p`` = the aligned probabilities of ``w(u)``; the policy makes pseudo-labels of them.
    2. :math:`L = L_s + \lambda_u (L_u + r L_{sh})`, with :math:`L_{sh}` the :func:`~layermatch.functional.shrink_loss`
       of the images that the policy masks, on an auxiliary head of the features of ``s(u)``, and r the running mean of
       the share of images that count, this batch included. It reaches the extractor and the auxiliary head.

    Source: ShrinkMatch (Yang et al. 2023, section 3); the head and the defaults are those of the authors' code for
    CIFAR. Its policy is :class:`~layermatch.policies.SoftThreshold`, its rule :class:`~layermatch.layerwise.Uniform`.

    NOTE: The authors' code for CIFAR starts r anew in every epoch, because it overwrites the value that it carries
    over; here it goes on. Their code for STL-10 and SVHN shrinks by probabilities that are not aligned.

    Args:
        shrink_threshold: ``tau``, the confidence that the classes that stay must give, in ``(0, 1]``; that of the
            policy.
        ratio_decay: The decay of r, in ``[0, 1)``.
        **options: Those of :class:`~layermatch.methods.queue_aligned.QueueAligned`; ``skip_masked`` is not legal.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.layerwise import Uniform
        >>> from layermatch.policies import SoftThreshold
        >>> list(ShrinkMatch(policy=SoftThreshold(), rule=Uniform()).heads(Problem(3, 8, 6, 10, (3, 32, 32), 100)))
        ['auxiliary']
    """

    def __init__(self, *, shrink_threshold: float = 0.95, ratio_decay: float = 0.999, **options: Any) -> None:
        super().__init__(**options)
        check_number("shrink_threshold", shrink_threshold, low=0, high=1, low_open=True)
        check_number("ratio_decay", ratio_decay, low=0, high=1, high_open=True)
        self.shrink_threshold = shrink_threshold
        self.ratio = RunningFromFirst(torch.zeros(()), decay=ratio_decay)

    def heads(self, problem: Problem) -> dict[str, nn.Module]:
        """Return the rule's heads and the auxiliary one; see :class:`Method`."""
        return {**super().heads(problem), AUXILIARY: _auxiliary_head(problem.num_features, problem.num_classes)}

    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return the loss in the shrunk class space."""
        weight = seen.pseudo_labels.weight
        self.ratio.see(weight.mean())
        # Of the strong views alone, which its BatchNorm takes for the batch, as in the authors' code.
        logits = step.network.through_head(AUXILIARY, seen.views["strong"].features)
        loss = shrink_loss(logits, seen.predictions.probs_weak, weight == 0, threshold=self.shrink_threshold)
        reached = frozenset({EXTRACTOR, AUXILIARY})
        return Losses(shrink=Term(self.ratio.moved * loss, PSEUDO_LABELS, reached, self.rule.lambda_u))


def _auxiliary_head(num_features: int, num_classes: int) -> nn.Module:
    """Return three linear layers with BatchNorm, a quarter as wide as the features within."""
    hidden = max(num_features // 4, 1)
    return nn.Sequential(
        nn.Linear(num_features, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(0.1),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.LeakyReLU(0.1),
        nn.Linear(hidden, num_classes),
    )
