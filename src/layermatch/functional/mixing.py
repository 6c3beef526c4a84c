"""Sharpened guesses, and images and targets mixed in pairs: MixMatch's two ingredients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["larger_part", "mix", "soft_cross_entropy"]


def larger_part(draws: Tensor) -> Tensor:
    r"""Take the coefficient by which the first of two images prevails, :math:`\lambda' = \max(\lambda, 1 - \lambda)`.

    Source: MixMatch (Berthelot et al. 2019, eq. 9).

    Args:
        draws: Float of any shape in ``[0, 1]``: draws of ``Beta(alpha, alpha)``.

    Returns:
        The same shape, in ``[0.5, 1]``.

    Example:
        >>> larger_part(torch.tensor([0.25, 0.5]))
        tensor([0.7500, 0.5000])
    """
    return torch.maximum(draws, 1 - draws)


def mix(values: Tensor, coefficients: Tensor, order: Tensor) -> Tensor:
    r"""Return each row mixed with another row of the same batch.

    .. math:: v'_i = \lambda_i v_i + (1 - \lambda_i) \, v_{\pi(i)}

    Source: mixup (Zhang et al. 2018) as MixMatch has it (Berthelot et al. 2019, eq. 10 and 11). Images and targets are
    mixed by the same coefficients and the same order.

    Args:
        values: ``(N, ...)`` float.
        coefficients: ``(N,)`` float in ``[0, 1]``, or one number ``()`` for all rows.
        order: ``(N,)`` int64, the permutation :math:`\pi`.

    Returns:
        ``(N, ...)``.

    Example:
        >>> mix(torch.tensor([[1.0], [3.0]]), torch.tensor([0.75, 1.0]), torch.tensor([1, 0]))
        tensor([[1.5000],
                [3.0000]])
    """
    share = coefficients.to(values.dtype)
    if share.ndim:
        share = share.view(-1, *[1] * (values.ndim - 1))
    return share * values + (1 - share) * values[order]


def soft_cross_entropy(logits: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Return the mean cross-entropy against probabilities.

    .. math:: L = -\frac{1}{N} \sum_i \sum_k q_{ik} \log \mathrm{softmax}(\ell_i)_k

    Source: MixMatch (Berthelot et al. 2019, eq. 3).

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        target: ``(N, K)`` float probabilities q, without a gradient.
        reduction: ``mean``, or ``sum``: without the division by N.

    Returns:
        A scalar.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]]))
        tensor(0.6931)
    """
    return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, target, reduction=reduction)
