"""Pseudo-labels without the network's own bias towards some classes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["debiased_probabilities"]


def debiased_probabilities(probs: Tensor, average: Tensor, *, strength: float) -> Tensor:
    r"""Return the probabilities from which the average prediction is taken out.

    .. math:: \tilde p = \mathrm{softmax}(z - \lambda \log \bar p) = \mathrm{Normalise}\left(p / \bar p^\lambda\right)

    Source: DebiasPL (Wang et al. 2022, section 4).

    Args:
        probs: ``(N, K)`` float probabilities, softmax(z).
        average: ``(K,)``: the average prediction, above 0.
        strength: lambda, at least 0; 0 changes nothing.

    Returns:
        ``(N, K)``; rows sum to 1.

    Example:
        >>> import torch
        >>> debiased_probabilities(torch.tensor([[0.5, 0.5]]), torch.tensor([0.8, 0.2]), strength=1.0)
        tensor([[0.2000, 0.8000]])
    """
    return torch.softmax(probs.log() - strength * average.log(), dim=-1)
