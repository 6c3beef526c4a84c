"""The way from uint8 pixels to the float32 values that a network reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["normalise"]

#: Values that are worked on at a time on a CPU: 2 MB of float32, so that the second pass finds the first one's result
#: in the cache.
CHUNK = 1 << 19


def normalise(images: Tensor, *, mean: Sequence[float], std: Sequence[float], channels_last: bool = False) -> Tensor:
    """Compute ``(x / 255 - mean) / std`` as ``(x - 255 mean) / (255 std)``.

    Args:
        images: ``(N, C, H, W)`` uint8; is not modified.
        mean: The mean of each channel, of pixels in [0, 1].
        std: The standard deviation of each channel, above 0.
        channels_last: The memory layout of the result; its values are the same.

    Returns:
        ``(N, C, H, W)`` float32, a new tensor on the device of ``images``.

    Example:
        >>> images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
        >>> normalise(images, mean=[0.2], std=[0.5]).flatten()
        tensor([-0.4000,  0.0000,  1.6000])
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    normalised = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=layout)
    # Neither waits for what a graphics card has still to do.
    shift = torch.tensor(mean).to(images.device, non_blocking=True) * 255
    scale = torch.tensor(std).to(images.device, non_blocking=True) * 255
    if channels_last:
        # One number for each value of a row: a broadcast over channels would have an innermost loop of 3 values.
        shift, scale = shift.repeat(images.shape[3]), scale.repeat(images.shape[3])
    else:
        shift, scale = shift[:, None], scale[:, None]
    chunk = _chunk(images)
    for first in range(0, len(images), chunk):
        pixels, result = images[first : first + chunk], normalised[first : first + chunk]
        if channels_last:
            # Stacking the channels is twice as fast on a CPU as copying a permuted view.
            pixels, result = torch.stack(pixels.unbind(1), dim=3), result.permute(0, 2, 3, 1)
        rows = result.view(*result.shape[:2], -1)  # a view for certain: what is written must reach the result
        torch.sub(pixels.flatten(2), shift, out=rows).div_(scale)
    return normalised


def _chunk(images: Tensor) -> int:
    """Return how many images to work on at a time."""
    if images.device.type != "cpu":
        return max(len(images), 1)
    return max(CHUNK // images.shape[1:].numel(), 1)
