"""How good features and predictions look without a label: measures for choosing among networks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["mean_squared_ranks", "nuclear_norm_per_image", "smooth_rank"]


def smooth_rank(features: Tensor) -> Tensor:
    r"""Return RankMe: how many directions the features use, counted smoothly.

    .. math:: \exp\left(-\sum_k p_k \log p_k\right), \qquad p_k = \frac{\sigma_k}{\sum_j \sigma_j} + \epsilon

    with the singular values sigma of the features. Source: RankMe (Garrido et al. 2023, arXiv 2210.02885), with the
    ``epsilon`` of 1e-7 of the code of V-PET.

    Args:
        features: Z, ``(N, D)`` float; computed in float64.

    Returns:
        A float64 scalar, from 1 to about ``min(N, D)``; 0 where all features are 0.

    Example:
        >>> round(float(smooth_rank(torch.eye(4)[:3])), 4)
        3.0
    """
    values = torch.linalg.svdvals(features.double())
    total = values.sum()
    if not total > 0:
        return torch.zeros((), dtype=torch.float64)
    shares = values / total + 1e-7
    rank: Tensor = (-(shares * shares.log()).sum()).exp()
    return rank


def nuclear_norm_per_image(probs: Tensor) -> Tensor:
    r"""Return how sure and how varied predictions are together: the sum of singular values, per image.

    .. math:: \frac{1}{N} \|P\|_* = \frac{1}{N} \sum_k \sigma_k(P)

    Source: batch nuclear-norm maximization (Cui et al. 2020, arXiv 2003.12237), over the whole set as in the code of
    V-PET.

    Args:
        probs: P, ``(N, K)`` float probabilities; computed in float64.

    Returns:
        A float64 scalar, above 0 and at most :math:`\sqrt{\min(N, K) / N}`.

    Example:
        >>> nuclear_norm_per_image(torch.eye(2)), nuclear_norm_per_image(torch.full((2, 2), 0.5))
        (tensor(1., dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    norm: Tensor = torch.linalg.svdvals(probs.double()).sum() / len(probs)
    return norm


def mean_squared_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Return the mean over several measures of the square of a network's rank; the lowest is chosen.

    .. math:: \bar r_i = \frac{1}{M} \sum_m r_{im}^2

    with rank 1 for the highest score of a measure. Equal scores share the mean of their ranks, and a score that is no
    number has the last one. The square weighs a bad rank more than a good one.

    Source: V-PET (Zhang et al. 2025, arXiv 2503.09707). NOTE: Its code gives equal scores different ranks, by an order
    that is not defined.

    Args:
        scores: ``(R, M)``: of each network by each measure, higher is better.

    Returns:
        ``(R,)``, from 1 to ``R**2``.

    Example:
        >>> mean_squared_ranks(np.array([[0.9, 5.0], [0.1, 7.0], [0.5, 1.0]]))
        array([2.5, 5. , 6.5])
    """
    from scipy.stats import rankdata

    known = np.where(np.isfinite(scores), scores, -np.inf)
    ranks: NDArray[np.float64] = rankdata(-known, method="average", axis=0)
    means: NDArray[np.float64] = (ranks**2).mean(axis=1)
    return means
