"""The way of a pseudo-label loss's gradient: through a linear head, or past it."""

from __future__ import annotations

from torch import Tensor, nn

from layermatch.functional import pseudo_label_loss
from layermatch.networks import linear_float32
from layermatch.policies import PseudoLabels

__all__ = ["loss_of", "routed_logits"]


def loss_of(logits: Tensor, pseudo_labels: PseudoLabels) -> Tensor:
    """Return the pseudo-label loss of logits, with the margin that the policy adds to them.

    Args:
        logits: ``(N, K)``.
        pseudo_labels: The pseudo-labels of the ``N`` images.
    """
    if pseudo_labels.margin is not None:
        logits = logits + pseudo_labels.margin
    return pseudo_label_loss(logits, pseudo_labels.target, pseudo_labels.weight)


def routed_logits(head: nn.Linear, features: Tensor, *, reaches_head: bool = True) -> Tensor:
    """Return the logits of a linear head, whose loss reaches the extractor and, where asked for, the head.

    To compute the head anew costs ``N D K`` multiplications, nothing beside the extractor.

    Args:
        head: The head.
        features: ``(N, D)``.
        reaches_head: False detaches the head's parameters.
    """
    weight, bias = (head.weight, head.bias) if reaches_head else (head.weight.detach(), head.bias.detach())
    return linear_float32(features, weight, bias)
