"""Geometric operations on a batch: each sample moves by its own amount; nearest pixel, black outside, as PIL.

Positions are whole numbers. Rotations and shears use PIL's 16.16 fixed-point walk over the image, so the
pixel that is picked is the same as PIL's, on every device. Sides are at most 32,767 pixels, as in that walk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "FILL_GREY",
    "FILL_RGB",
    "crop_and_flip",
    "cutout",
    "resized_crop",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]

#: Colour of the cutout box in TorchSSL and USB.
FILL_RGB = (125, 123, 114)
#: The mean of that colour, for images of one channel (ours: the references have none).
FILL_GREY = 121

_FIXED = 1 << 16  # one pixel in 16.16 fixed point


def crop_and_flip(images: Tensor, *, top: Tensor, left: Tensor, mirror: Tensor, pad: tuple[int, int]) -> Tensor:
    """Pad by reflection, cut out the original size, then mirror some of the samples.

    Args:
        images: uint8 (N, C, H, W).
        top: int64 (N,), first row of the cut in the padded image, 0 .. 2 * pad[0].
        left: int64 (N,), first column of the cut in the padded image, 0 .. 2 * pad[1].
        mirror: bool (N,), which samples to flip horizontally.
        pad: The pixels added (above and below, left and right), each less than the side.

    Returns:
        uint8 (N, C, H, W), a new tensor.

    Example:
        >>> images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 1, 1, 3)
        >>> zero, mirror = torch.tensor([0]), torch.tensor([False])
        >>> crop_and_flip(images, top=zero, left=zero, mirror=mirror, pad=(0, 1)).flatten().tolist()
        [20, 10, 20]
    """
    count, channels, height, width = images.shape
    rows = _reflected(top - pad[0], height).to(images.device, non_blocking=True)  # (N, H)
    columns = _reflected(left - pad[1], width)  # (N, W)
    columns = torch.where(mirror[:, None], columns.flip(1), columns).to(images.device, non_blocking=True)
    # Whole rows are copied first; the (N, W) columns then serve all rows and channels without a larger index.
    first = torch.arange(count * channels, device=images.device).view(count, channels, 1) * height
    lines = images.reshape(-1, width).index_select(0, (first + rows[:, None, :]).flatten())
    return lines.view(images.shape).gather(3, columns[:, None, None, :].expand(images.shape))


def resized_crop(images: Tensor, *, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Cut out a box of each sample and enlarge it to the whole, bilinearly within the box.

    As ``torchvision.transforms.functional.resized_crop`` with bilinear interpolation, but for the rounding: a box is
    never larger than the image, so nothing is reduced.

    Args:
        images: uint8 (N, C, H, W).
        top: int64 (N,), first row of the box.
        left: int64 (N,), first column of the box.
        height: int64 (N,), rows of the box, 1 .. H - top.
        width: int64 (N,), columns of the box, 1 .. W - left.

    Returns:
        uint8 (N, C, H, W), a new tensor.

    Example:
        >>> images = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(1, 1, 1, 4)
        >>> zero, one, two = (torch.tensor([number]) for number in (0, 1, 2))
        >>> resized_crop(images, top=zero, left=one, height=one, width=two).flatten().tolist()
        [20, 22, 28, 30]
    """
    count, channels, rows, columns = images.shape
    pixels = images.to(torch.float32)
    for axis, (start, length, side) in {2: (top, height, rows), 3: (left, width, columns)}.items():
        first, second, share = _between(start, length, side)
        shape = [count, 1, 1, 1]
        shape[axis] = side
        sizes = (-1, channels, *pixels.shape[2:])
        near, far = (
            pixels.gather(axis, place.view(shape).to(images.device, non_blocking=True).expand(sizes))
            for place in (first, second)
        )
        pixels = near.lerp_(far, share.view(shape).to(images.device, non_blocking=True))
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _between(start: Tensor, length: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels (N, side) that each pixel of an enlarged box lies between, and the share of the second."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) * (length.to(torch.float64) / side)[:, None] - 0.5
    place = place.clamp(min=0)
    first = place.floor()
    last = (length - 1).to(torch.float64)[:, None]
    share = (place - first).to(torch.float32)
    begin = start[:, None]
    return (
        begin + first.minimum(last).to(torch.int64),
        begin + (first + 1).minimum(last).to(torch.int64),
        share,
    )


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift to the left by a fraction of the width, ``img.transform(AFFINE, (1, 0, m * W, 0, 1, 0))``.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), fraction m of the width. TorchSSL and USB: -0.3 .. 0.3.

    Example:
        >>> images = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(1, 1, 1, 4)
        >>> translate_x(images, torch.tensor([0.25])).flatten().tolist()
        [20, 30, 40, 0]
    """
    height, width = images.shape[2:]
    shift = _nearest(magnitude, width)
    rows = torch.arange(height, device=shift.device).expand(len(images), -1)
    return _move_rows(images, rows, shift[:, None].expand(-1, height))


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift upwards by a fraction of the height, ``img.transform(AFFINE, (1, 0, 0, 0, 1, m * H))``.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), fraction m of the height. TorchSSL and USB: -0.3 .. 0.3.

    Example:
        >>> images = torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(1, 1, 4, 1)
        >>> translate_y(images, torch.tensor([-0.25])).flatten().tolist()
        [0, 10, 20, 30]
    """
    height = images.shape[2]
    shift = _nearest(magnitude, height)
    rows = torch.arange(height, device=shift.device) + shift[:, None]
    return _move_rows(images, rows, torch.zeros_like(rows))


def shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift each row in proportion to its height, ``img.transform(AFFINE, (1, m, 0, 0, 1, 0))``.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), shift m in columns per row. TorchSSL and USB: -0.3 .. 0.3.

    Example:
        >>> images = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).view(1, 1, 2, 2)
        >>> shear_x(images, torch.tensor([1.0]))[0, 0].tolist()
        [[20, 0], [0, 0]]
    """
    height = images.shape[2]
    slope = magnitude.to(torch.float64)
    rows = torch.arange(height, device=slope.device)
    shift = (_fixed(0.5 + slope * 0.5)[:, None] + _fixed(slope)[:, None] * rows) >> 16
    return _move_rows(images, rows.expand(len(images), -1), shift)


def shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift each column in proportion to its position, ``img.transform(AFFINE, (1, 0, 0, m, 1, 0))``.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), shift m in rows per column. TorchSSL and USB: -0.3 .. 0.3.

    Example:
        >>> images = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).view(1, 1, 2, 2)
        >>> shear_y(images, torch.tensor([1.0]))[0, 0].tolist()
        [[30, 0], [0, 0]]
    """
    height, width = images.shape[2:]
    slope = magnitude.to(torch.float64)
    columns = torch.arange(width, device=slope.device)
    shift = (_fixed(0.5 + slope * 0.5)[:, None] + _fixed(slope)[:, None] * columns) >> 16  # (N, W)
    shift = shift.to(torch.int32).to(images.device, non_blocking=True)
    y = shift[:, None, :] + _count(height, images)[:, None]  # (N, H, W)
    return _pick(images, _count(width, images), y)


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre, ``img.rotate(m)``.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), angle m in degrees. TorchSSL and USB: -30 .. 30.

    Example:
        >>> images = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).view(1, 1, 2, 2)
        >>> rotate(images, torch.tensor([90.0]))[0, 0].tolist()
        [[20, 40], [10, 30]]
    """
    height, width = images.shape[2:]
    angle = magnitude.to(torch.float64) * -(math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    # The input position of the centre of output pixel (0, 0); from there PIL walks in rounded steps.
    x0 = width / 2 + (0.5 - width / 2) * cos + (0.5 - height / 2) * sin
    y0 = height / 2 + (0.5 - height / 2) * cos - (0.5 - width / 2) * sin
    walk = _fixed(torch.stack([x0, y0, cos, sin])).to(torch.int32)
    x0, y0, cos, sin = walk.to(images.device, non_blocking=True)[:, :, None]  # each (N, 1)
    column, row = _count(width, images), _count(height, images)
    x = (x0 + cos * column)[:, None, :] + (sin * row)[:, :, None]  # (N, H, W)
    y = (y0 - sin * column)[:, None, :] + (cos * row)[:, :, None]
    return _pick(images, x.bitwise_right_shift_(16), y.bitwise_right_shift_(16))


def cutout(images: Tensor, *, size: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Fill a box with grey (Cutout, DeVries and Taylor 2017), as TorchSSL and USB draw it.

    NOTE: two habits of the references are kept, so that results compare. PIL's rectangle includes its last
    row and column, so the box has floor(side) + 1 of them; and a box that would start outside on the left or
    above starts at the border with its whole side, whereas it is cut on the right and below.

    Args:
        images: uint8 (N, C, H, W).
        size: (N,), side of the box as a fraction of the width (also for its height); 0 means no box.
        x: (N,), horizontal centre as a fraction of the width, [0, 1).
        y: (N,), vertical centre as a fraction of the height, [0, 1).

    Returns:
        uint8 (N, C, H, W), a new tensor.

    Example:
        >>> images = torch.zeros(1, 1, 1, 8, dtype=torch.uint8)
        >>> half = torch.tensor([0.5])
        >>> cutout(images, size=half / 2, x=half, y=half).flatten().tolist()
        [0, 0, 0, 121, 121, 121, 0, 0]
    """
    channels, height, width = images.shape[1:]
    side = size.to(torch.float64) * width
    columns = _inside(x.to(torch.float64) * width, side, width)  # (N, W)
    rows = _inside(y.to(torch.float64) * height, side, height) & (side > 0)[:, None]  # (N, H)
    columns = columns.to(torch.uint8).to(images.device, non_blocking=True)
    rows = rows.to(torch.uint8).to(images.device, non_blocking=True)
    hole = rows[:, None, :, None] * columns[:, None, None, :]  # (N, 1, H, W), 0 or 1
    fill = torch.tensor(FILL_RGB if channels == 3 else (FILL_GREY,), dtype=torch.uint8)
    fill = fill.to(images.device, non_blocking=True).view(channels, 1, 1)
    # Multiplying uint8 values is many times faster on a CPU than selecting by a bool mask.
    return (images * (hole ^ 1)).addcmul_(hole, fill)


def _inside(centre: Tensor, side: Tensor, length: int) -> Tensor:
    """Return which pixels (N, length) a box of this side about this centre covers, both float64 (N,)."""
    first = (centre - side / 2).clamp(min=0).floor()
    last = (first + side).clamp(max=length).floor()
    position = torch.arange(length, device=centre.device)
    return (position >= first[:, None]) & (position <= last[:, None])


def _reflected(start: Tensor, length: int) -> Tensor:
    """Reflect start, start + 1, ... into 0 .. length - 1 without repeating the border: (N, length)."""
    position = (start[:, None] + torch.arange(length, device=start.device)).abs()
    return (length - 1) - ((length - 1) - position).abs()


def _nearest(fraction: Tensor, length: int) -> Tensor:
    """Shift in whole pixels, int64 (N,), that PIL makes of a fraction of the length."""
    return (fraction.to(torch.float64) * length + 0.5).floor().to(torch.int64)


def _fixed(values: Tensor) -> Tensor:
    """Round float64 values to 16.16 fixed point, int64."""
    return (values * _FIXED + 0.5).floor().to(torch.int64)


def _count(length: int, images: Tensor) -> Tensor:
    """Count from 0 to length - 1 in int32, on the images' device."""
    return torch.arange(length, dtype=torch.int32, device=images.device)


def _move_rows(images: Tensor, rows: Tensor, shift: Tensor) -> Tensor:
    """Make row y of sample n its row ``rows[n, y]``, read ``shift[n, y]`` columns to the right; outside is 0.

    Args:
        images: uint8 (N, C, H, W).
        rows: int64 (N, H).
        shift: int64 (N, H).
    """
    count, channels, height, width = images.shape
    if count == 0:
        return images.clone()
    rows = torch.where((rows >= 0) & (rows < height), rows, height)
    start = rows * (2 * width) + width + shift.clamp(-width, width)  # (N, H)
    # Zeros left of each row and one row of zeros below each plane: any window of W values that starts at most
    # W before or behind a row holds that row moved, and zeros. Copying windows needs no index per pixel.
    padded = F.pad(images, (width, 0, 0, 1))  # (N, C, H + 1, 2W)
    plane = torch.arange(count * channels, device=images.device).view(count, channels, 1)
    first = plane * ((height + 1) * 2 * width) + start.to(images.device, non_blocking=True)[:, None, :]
    return padded.flatten().unfold(0, width, 1).index_select(0, first.flatten()).view(images.shape)


def _pick(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Give output pixels the input pixel at column x, row y; outside is 0.

    Args:
        images: uint8 (N, C, H, W).
        x: int32, broadcasts to (N, H, W); is overwritten.
        y: int32, broadcasts to (N, H, W); is overwritten.
    """
    channels, height, width = images.shape[1:]
    # A frame of zeros catches every position outside, so no mask is needed.
    framed = F.pad(images, (1, 1, 1, 1)).flatten(2)  # (N, C, (H + 2) * (W + 2))
    index = y.add_(1).clamp_(0, height + 1).mul_(width + 2) + x.add_(1).clamp_(0, width + 1)
    index = index.view(len(images), 1, height * width).to(torch.int64)
    return framed.gather(2, index.expand(-1, channels, -1)).view(images.shape)
