"""Weights that fall off smoothly below the mean confidence."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["truncated_gaussian"]


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    r"""Return 1 from the mean on, and a Gaussian below it.

    .. math:: \lambda = \exp\left(-\frac{\min(c - \mu, 0)^2}{2 \sigma^2}\right)

    Source: SoftMatch (Chen et al. 2023, section 3.2).

    Args:
        confidence: ``(N,)`` float in ``[0, 1]``.
        mean: Scalar.
        variance: Scalar, at least 0. With 0 the weight is 1 from the mean on and 0 below it.

    Returns:
        ``(N,)``, in ``[0, 1]``.

    Example:
        >>> import torch
        >>> truncated_gaussian(torch.tensor([0.5, 0.9]), torch.tensor(0.7), torch.tensor(0.02))
        tensor([0.3679, 1.0000])
    """
    below = (confidence - mean).clamp(max=0)
    weight: Tensor = torch.exp(-below.square() / (2 * variance).clamp(min=torch.finfo(variance.dtype).tiny))
    return weight
