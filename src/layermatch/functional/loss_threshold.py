"""Dash's threshold of the loss, which falls in the course of a run."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross_entropy_of_probabilities", "falling_threshold", "loss_of_labels"]


def falling_threshold(first: Tensor, num_drops: Tensor, *, scale: float, gamma: float, lowest: float) -> Tensor:
    r"""Return the largest loss with which a pseudo-label counts.

    .. math:: \rho_k = \max\left(C \, \gamma^{-k} \hat\rho, \; \rho_{\min}\right)

    Source: Dash (Xu et al. 2021, algorithm 1, with k = t - 1); its authors' code (idstcv/Dash) for the lower
    limit.

    Args:
        first: ``rho^``, a scalar, at least 0: the loss of labelled images after the warm-up.
        num_drops: ``k``, a scalar, at least 0: how often the threshold has fallen.
        scale: ``C``, above 0; the paper's is 1.0001.
        gamma: The factor of each fall, at least 1.
        lowest: ``rho_min``, at least 0.

    Returns:
        A scalar of the dtype of ``first``.

    Example:
        >>> falling_threshold(torch.tensor(0.8), torch.tensor(2), scale=1.0, gamma=2.0, lowest=0.05)
        tensor(0.2000)
    """
    falling: Tensor = scale * gamma ** -num_drops.to(first.dtype) * first
    return falling.clamp(min=lowest)


def cross_entropy_of_probabilities(probs: Tensor, target: Tensor) -> Tensor:
    r"""Return the cross-entropy of each row of probabilities, :math:`-\sum_k q_k \log p_k` with :math:`0 \log 0 = 0`.

    Args:
        probs: p, ``(N, K)`` float probabilities.
        target: q, ``(N, K)`` float probabilities.

    Returns:
        ``(N,)``; infinite where p excludes what q has.

    Example:
        >>> cross_entropy_of_probabilities(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
        tensor([0.6931])
    """
    products: Tensor = torch.special.xlogy(target, probs)
    return -products.sum(dim=-1)


def loss_of_labels(probs: Tensor, label: Tensor) -> Tensor:
    r"""Return the cross-entropy of each labelled image, :math:`-\log p_y`.

    Args:
        probs: p, ``(B, K)`` float probabilities; below the smallest positive float32 they count as that.
        label: y, ``(B,)`` int64.

    Returns:
        ``(B,)`` float64.

    Example:
        >>> loss_of_labels(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.6931, -0.0000], dtype=torch.float64)
    """
    right = probs.gather(1, label[:, None])[:, 0].double()
    return -right.clamp(min=torch.finfo(torch.float32).tiny).log()
