"""Losses that ask for the same prediction twice."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["squared_error_of_probabilities"]


def squared_error_of_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    r"""Return the mean squared difference between predicted and target probabilities.

    .. math:: L = \frac{1}{N K} \sum_{u, k} \left(\mathrm{softmax}(\ell_u)_k - q_{uk}\right)^2

    Source: Mean Teacher (Tarvainen and Valpola 2017, section 2), averaged over the classes as in TorchSSL.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays). The gradient goes here.
        target: ``(N, K)`` float probabilities q, without a gradient.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> squared_error_of_probabilities(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor(0.2500)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return F.mse_loss(logits.softmax(dim=-1), target)
