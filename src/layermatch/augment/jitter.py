"""Colour jitter of a batch: each sample has factors of its own, and takes them in an order of its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

__all__ = ["ORDERS", "change_brightness", "change_contrast", "change_hue", "change_saturation", "jitter", "luma"]

#: The weights of red, green and blue in a grey level, as in torchvision.
_LUMA = (0.2989, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """Return the grey levels, (N, 1, H, W).

    Args:
        images: float (N, C, H, W) in [0, 1], C 1 or 3.

    Example:
        >>> luma(torch.ones(1, 3, 1, 1)).shape
        torch.Size([1, 1, 1, 1])
    """
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def change_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by a factor.

    Args:
        images: float (N, C, H, W) in [0, 1].
        factor: (N, 1, 1, 1), at least 0.
    """
    return (images * factor).clamp_(0, 1)


def change_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Go away from the image's mean grey level, or towards it.

    Args:
        images: float (N, C, H, W) in [0, 1].
        factor: (N, 1, 1, 1), at least 0; 1 changes nothing.
    """
    return _blend(images, luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def change_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Go away from the grey image, or towards it; a grey image stays as it is.

    Args:
        images: float (N, C, H, W) in [0, 1].
        factor: (N, 1, 1, 1), at least 0; 1 changes nothing.
    """
    return images if images.shape[1] == 1 else _blend(images, luma(images), factor)


def change_hue(images: Tensor, turn: Tensor) -> Tensor:
    r"""Turn the circle of hues; a grey image stays as it is.

    With value v, chroma c and hue h in sixths of the circle, a channel is
    :math:`v - c \max(0, \min(k, 4 - k, 1))`, where k is :math:`(n + h) \bmod 6` with n = 5, 3, 1 for red, green, blue.

    Args:
        images: float (N, C, H, W) in [0, 1].
        turn: (N, 1, 1, 1), the part of the circle, in [-0.5, 0.5].

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> change_hue(red, torch.full((1, 1, 1, 1), 1 / 3)).flatten().round().tolist()
        [0.0, 1.0, 0.0]
    """
    if images.shape[1] == 1:
        return images
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = (images[:, c : c + 1] for c in range(3))
    divisor = torch.where(chroma > 0, chroma, 1)
    of_red, of_green, of_blue = (green - blue) / divisor, (blue - red) / divisor + 2, (red - green) / divisor + 4
    hue = torch.where(value == red, of_red, torch.where(value == green, of_green, of_blue)) + 6 * turn
    offset = images.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (offset + hue).remainder(6)
    return (value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)).clamp_(0, 1)


#: What a jitter does, in no order of its own.
_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    change_brightness,
    change_contrast,
    change_saturation,
    change_hue,
)

#: The orders that the four changes can be made in.
ORDERS = torch.tensor(list(permutations(range(len(_CHANGES)))))


def jitter(images: Tensor, *, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each sample, in an order of its own.

    Source: ``ColorJitter`` of torchvision, for a batch.

    Args:
        images: float (N, C, H, W) in [0, 1].
        factors: (N, 4), on the host: the factors of brightness, contrast and saturation, and the turn of the hue.
        order: int64 (N,), on the host: rows of :data:`ORDERS`.

    Returns:
        A new tensor.

    Example:
        >>> nothing = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
        >>> images = torch.rand(1, 3, 4, 4)
        >>> torch.allclose(jitter(images, factors=nothing, order=torch.tensor([5])), images, atol=1e-6)
        True
    """
    changed = images.clone()
    for slot in range(len(_CHANGES)):
        chosen = ORDERS[order, slot]
        for number, change in enumerate(_CHANGES):
            rows = (chosen == number).nonzero()[:, 0]
            if not len(rows):
                continue
            amount = factors[rows, number].to(images).view(-1, 1, 1, 1)
            rows = rows.to(images.device, non_blocking=True)
            changed[rows] = change(changed[rows], amount)
    return changed


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 1)
