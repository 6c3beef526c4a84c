"""Boxes of a batch of images, resampled to one size: each sample has its own box."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["resized", "resized_crop"]

#: The constant of the cubic kernel, as in PIL.
_A = -0.5


def resized_crop(
    images: Tensor, *, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: tuple[int, int]
) -> Tensor:
    """Cut a box out of each image and resample it, as ``image.crop(box).resize(size, BICUBIC)`` of PIL does.

    Where a box is larger than the result, the cubic kernel is as wide as it must be to avoid aliasing. A pixel is the
    sum of rows and columns with weights of their own, which is a product of matrices for a whole batch.

    NOTE: Each of the two passes may differ from PIL's by a level, as its weights have 22 bits. Which of them PIL makes
    first depends on its version and on the sizes; columns are first here. Where the kernel overshoots black or white,
    that is seen.

    Args:
        images: uint8 (N, C, H, W).
        top: int64 (N,), the first row of each box, at least 0.
        left: int64 (N,), the first column of each box, at least 0.
        height: int64 (N,), the rows of each box, at least 1; the box ends within the image.
        width: int64 (N,), the columns of each box, at least 1.
        size: Rows and columns of the result.

    Returns:
        uint8 (N, C, *size), a new tensor.

    Example:
        >>> images = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 9]], dtype=torch.uint8).view(1, 1, 2, 4)
        >>> zero, two = torch.tensor([0]), torch.tensor([2])
        >>> resized_crop(images, top=zero, left=two, height=two, width=two, size=(1, 3)).tolist()
        [[[[9, 9, 9]]]]
    """
    rows = _weights(top, height, side=images.shape[2], out=size[0]).to(images.device, non_blocking=True)
    columns = _weights(left, width, side=images.shape[3], out=size[1]).to(images.device, non_blocking=True)
    with torch.autocast(images.device.type, enabled=False):
        # Whole levels between the two passes, as in PIL.
        lines = _levels(images.to(torch.float32) @ columns[:, None].transpose(2, 3))  # (N, C, H, columns)
        return _levels(rows[:, None] @ lines).to(torch.uint8)


def resized(images: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Resample whole images, as ``image.resize(size, BICUBIC)`` of PIL does, by :func:`resized_crop`.

    Args:
        images: uint8 (N, C, H, W).
        size: Rows and columns of the result.

    Returns:
        uint8 (N, C, *size), a new tensor.

    Example:
        >>> images = torch.tensor([[10, 10], [30, 30]], dtype=torch.uint8).view(1, 1, 2, 2)
        >>> resized(images, size=(1, 1)).tolist()
        [[[[20]]]]
    """
    zero, rows, columns = (torch.tensor([number]) for number in (0, *images.shape[2:]))  # one box for all images
    return resized_crop(images, top=zero, left=zero, height=rows, width=columns, size=size)


def _levels(pixels: Tensor) -> Tensor:
    """Round to 0 .. 255, in place."""
    return pixels.round_().clamp_(0, 255)


def _weights(first: Tensor, length: Tensor, *, side: int, out: int) -> Tensor:
    """Return how much each of ``side`` pixels counts in each of ``out``: (N, out, side) float32, rows that sum to 1."""
    scale = (length.to(torch.float64) / out)[:, None]  # (N, 1)
    centre = first[:, None] + (torch.arange(out, dtype=torch.float64) + 0.5) * scale  # (N, out)
    position = torch.arange(side)
    distance = (position + 0.5 - centre[:, :, None]) / scale.clamp(min=1)[:, :, None]  # (N, out, side)
    inside = (position >= first[:, None]) & (position < (first + length)[:, None])
    weights = _cubic(distance) * inside[:, None, :]
    return (weights / weights.sum(dim=2, keepdim=True)).to(torch.float32)


def _cubic(distance: Tensor) -> Tensor:
    """Return the kernel of Keys (1981)."""
    x = distance.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
