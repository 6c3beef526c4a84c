"""Probabilities that are moved towards a wanted distribution of classes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["align_distribution"]


def align_distribution(probs: Tensor, target: Tensor, average: Tensor, *, epsilon: float = 0.0) -> Tensor:
    r"""Return the probabilities scaled by how far the model's average prediction is from a target, and normalised.

    .. math:: \tilde p_k = \frac{p_k \, (t_k + \epsilon) / (a_k + \epsilon)}
        {\sum_j p_j \, (t_j + \epsilon) / (a_j + \epsilon)}

    Source: ReMixMatch (Berthelot et al. 2020, section 3.1), where epsilon is 0; their code and USB have 1e-6. A class
    that was never predicted (:math:`a_k = p_k = 0`) stays at 0, and a row that has nothing left stays as it was.

    Args:
        probs: ``(N, K)`` float probabilities.
        target: ``(K,)`` float, t: the wanted distribution of classes.
        average: ``(K,)`` float, a: the model's average prediction, at least 0.
        epsilon: A number that is at least 0.

    Returns:
        ``(N, K)`` of the dtype of ``probs``; rows sum to 1.

    Example:
        >>> import torch
        >>> align_distribution(torch.tensor([[0.6, 0.4]]), torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25]))
        tensor([[0.3333, 0.6667]])
    """
    seen = average + epsilon > 0
    # Divided first: a probability is small where its average is, so that the quotient stays finite.
    scaled = torch.where(seen, probs / torch.where(seen, average + epsilon, 1), 0) * (target + epsilon)
    total = scaled.sum(dim=-1, keepdim=True)
    aligned = torch.where(total > 0, scaled / torch.where(total > 0, total, 1), probs)
    return aligned.to(probs.dtype)
