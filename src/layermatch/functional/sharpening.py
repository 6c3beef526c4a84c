"""A temperature for probabilities."""

from __future__ import annotations

from torch import Tensor

__all__ = ["sharpen"]


def sharpen(probs: Tensor, temperature: float) -> Tensor:
    r"""Return the probabilities as they are at another temperature.

    .. math:: q_k = \frac{p_k^{1/T}}{\sum_j p_j^{1/T}}

    With :math:`p = \mathrm{softmax}(\ell)` it is :math:`\mathrm{softmax}(\ell / T)`, so logits are not needed, and
    averages of probabilities can be sharpened too. It is computed from logarithms, so that no power underflows.

    Source: MixMatch (Berthelot et al. 2019, eq. 7); UDA (Xie et al. 2020, "Sharpening Predictions").

    Args:
        probs: ``(N, K)`` float probabilities; rows sum to 1.
        temperature: ``T``, above 0; below 1 it sharpens, 1 changes nothing.

    Returns:
        ``(N, K)`` of the dtype of ``probs``; rows sum to 1. A class of probability 0 stays there.

    Example:
        >>> import torch
        >>> sharpen(torch.tensor([[0.75, 0.25]]), 0.5)
        tensor([[0.9000, 0.1000]])
    """
    return (probs.log() / temperature).softmax(dim=-1)
