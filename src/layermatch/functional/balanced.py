"""Masks that leave as much of every class as there is of the rarest one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["annealed_rates", "balancing_rates"]


def balancing_rates(label_counts: Tensor) -> Tensor:
    r"""Return the rate at which an image of each class is kept, so that as many are kept of every class.

    .. math:: \rho_k = \min_{j : n_j > 0} n_j \, / \, n_k

    A class without images has the rate 1. Source: ABC (Lee et al. 2021, eq. 1), whose authors name the smallest class
    ``L``.

    Args:
        label_counts: ``n``, ``(K,)`` numbers of at least 0: the labelled images of each class.

    Returns:
        ``(K,)`` float32 (float64 stays) in ``(0, 1]``.

    Example:
        >>> balancing_rates(torch.tensor([100, 25, 50]))
        tensor([0.2500, 1.0000, 0.5000])
    """
    counts = label_counts if label_counts.is_floating_point() else label_counts.float()
    there = counts > 0
    smallest = torch.where(there, counts, torch.inf).min()
    return torch.where(there, smallest / counts, 1.0)


def annealed_rates(rates: Tensor, progress: float) -> Tensor:
    r"""Return the rates that fall from 1 to their own in the course of a run.

    .. math:: \rho_k(t) = 1 - t \, (1 - \rho_k)

    Source: ABC (Lee et al. 2021, section 3.3): first every unlabelled image is used, in the end the balanced part.

    Args:
        rates: ``rho``, ``(K,)`` float in ``[0, 1]``.
        progress: t, the share of the run that is done, in ``[0, 1]``.

    Returns:
        ``(K,)`` of the dtype of ``rates``.

    Example:
        >>> annealed_rates(torch.tensor([0.5, 1.0]), 0.5)
        tensor([0.7500, 1.0000])
    """
    return 1 - progress * (1 - rates)
