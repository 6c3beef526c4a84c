"""Exponential moving averages."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bias_corrected_ema", "ema", "relative_change", "warmup_decay"]


def warmup_decay(decay: float, num_updates: int) -> float:
    r"""Return a decay that grows from 0.1 to its final value, so that an average forgets its random start.

    .. math:: \beta_t = \min\left(\beta, \frac{1 + t}{10 + t}\right)

    Source: TensorFlow's ``ExponentialMovingAverage(num_updates=...)``.

    Args:
        decay: The final decay, in ``[0, 1)``.
        num_updates: The number of updates made so far, ``t``, from 0.

    Returns:
        The decay of the next update.

    Example:
        >>> warmup_decay(0.999, 0), warmup_decay(0.999, 90), warmup_decay(0.5, 90)
        (0.1, 0.91, 0.5)
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


def ema(average: Tensor, value: Tensor, decay: float | Tensor) -> Tensor:
    r"""Return one update of an exponential moving average, :math:`\beta a + (1 - \beta) v`.

    Args:
        average: The average so far, float of any shape.
        value: The new value, broadcastable to ``average``.
        decay: A number in ``[0, 1]``, or a tensor of such that broadcasts.

    Returns:
        The new average; ``average`` itself is not changed.

    Example:
        >>> import torch
        >>> ema(torch.tensor([1.0]), torch.tensor([2.0]), 0.9)
        tensor([1.1000])
    """
    return average * decay + value * (1 - decay)


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    r"""Return how far something has moved for its size, :math:`\|a - b\| / \|b\|`.

    Source: ours.

    Args:
        before: ``b``, any shape, float.
        after: ``a``, the same shape.

    Returns:
        A scalar, at least 0; not finite where ``before`` is 0.

    Example:
        >>> import torch
        >>> relative_change(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
        tensor(0.2000)
    """
    change = torch.linalg.vector_norm(after - before)
    size = torch.linalg.vector_norm(before)
    return torch.div(change, size)


def bias_corrected_ema(average: Tensor, num_updates: Tensor, decay: float) -> Tensor:
    r"""Return the average as if it had not started at 0, :math:`a / (1 - \beta^n)`.

    Source: Adam (Kingma and Ba 2015, section 3); used for network outputs by Temporal Ensembling (Laine and
    Aila 2017, algorithm 1).

    Args:
        average: ``(N, ...)`` float: an EMA that started at 0.
        num_updates: ``(N,)`` int: its updates so far, at least 1.
        decay: A number in ``[0, 1)``.

    Returns:
        ``(N, ...)``, the corrected average.

    Example:
        >>> import torch
        >>> bias_corrected_ema(torch.tensor([[0.2]]), torch.tensor([1]), 0.9)
        tensor([[2.0000]])
    """
    correction = 1 - decay ** num_updates.to(average.dtype)
    return average / correction.view(-1, *[1] * (average.ndim - 1))
