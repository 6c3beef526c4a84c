"""The matrix product of small matrices whose digits matter."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["product_float32"]


def product_float32(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the matrix product, never in less than float32.

    .. math:: c_{ik} = \sum_j a_{ij} b_{jk}

    Autocast makes every matrix product one of bfloat16, also that of two float32 matrices: counts above 256 are wrong
    then, and neighbouring cosines are one. The products of the equations are a negligible share of a step. Source:
    ours.

    Args:
        first: a, ``(N, D)`` or ``(D,)``, any float dtype.
        second: b, ``(D, M)`` or ``(D,)``, any float dtype.

    Returns:
        ``(N, M)``, or without the axis of a vector; float32, or float64 where either is.

    Example:
        >>> import torch
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     product_float32(torch.ones(300), torch.ones(300, 1)), torch.ones(1, 257) @ torch.ones(257, 1)
        (tensor([300.]), tensor([[256.]], dtype=torch.bfloat16))
    """
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    with torch.autocast(first.device.type, enabled=False):
        return first.to(dtype) @ second.to(dtype)
