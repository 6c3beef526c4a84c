"""A head that works against the extractor: gradient reversal, and what the worst head learns."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["avoidance_loss", "reversal_factor", "reverse_gradient"]

#: What keeps the logarithm of :func:`avoidance_loss` finite (the authors' code).
OFFSET = 1e-6


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-factor``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * grads[0], None


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    r"""Return the features that a head minimises its loss on while the extractor maximises it.

    .. math:: R(z) = z, \qquad \frac{\partial R}{\partial z} = -\lambda I

    Source: DANN (Ganin et al. 2016).

    Args:
        features: ``z``, any shape.
        factor: ``lambda``, at least 0.

    Returns:
        The same values.

    Example:
        >>> z = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(z, 0.5).sum().backward()
        >>> z.grad
        tensor([-0.5000, -0.5000])
    """
    reversed_: Tensor = _Reverse.apply(features, factor)
    return reversed_


def reversal_factor(progress: float, *, length: float, highest: float) -> float:
    r"""Return a factor of the reversed gradient that grows from 0, so that the head is of some use before it counts.

    .. math:: \lambda = \lambda_{max} \left(\frac{2}{1 + \exp(-t / \rho)} - 1\right)

    Source: DST (Chen et al. 2022) in the authors' code, where ``rho`` is a number of steps.

    Args:
        progress: t, the share of the run that is done, in ``[0, 1]``.
        length: rho, the share of the run in which the factor gets to 46 percent of the highest; 0 is no ramp.
        highest: The highest factor, at least 0.

    Returns:
        The factor, in ``[0, highest)``; ``highest`` without a ramp.

    Example:
        >>> reversal_factor(0.0, length=0.3, highest=0.1), round(reversal_factor(0.3, length=0.3, highest=0.1), 4)
        (0.0, 0.0462)
    """
    return highest * (2 / (1 + math.exp(-progress / length)) - 1) if length else highest


def avoidance_loss(logits: Tensor, label: Tensor) -> Tensor:
    r"""Return what a head minimises that must not say what it is told.

    .. math:: \frac{1}{N} \sum_u -\log \min\left(1, 1 - \mathrm{softmax}(\ell_u)_{\hat y_u} + 10^{-6}\right)

    Source: DST (Chen et al. 2022); the ``1e-6`` is that of the authors' code.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        label: ``(N,)`` int64, the classes to avoid.

    Returns:
        A scalar, at least 0.

    Example:
        >>> avoidance_loss(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    said = logits.softmax(dim=-1).gather(-1, label[:, None])[:, 0]
    return -(1 - said + OFFSET).clamp(max=1).log().mean()
