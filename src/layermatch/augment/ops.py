"""Pixel operations on a batch: each sample has its own magnitude, and each result equals PIL's to the bit.

An operation is a pure function ``op(images, magnitude)``. ``images`` is uint8 (N, C, H, W) with C = 1 (PIL's
mode L) or 3 (RGB); ``magnitude`` is a float tensor (N,) on any device. The result is a new uint8 tensor with
the shape and device of ``images``; its sample n depends on sample n only. Some operations ignore the magnitude.

The arithmetic is the same on every device: integers, float32 values that are exact (whole numbers below 2^24)
or rounded once per elementary operation as PIL's C code does, and float64 for tables of 256 entries. Avoided,
because their rounding differs between devices: fused multiply-adds of fractions (``add`` with ``alpha``,
``lerp``, ``addcmul``) and true division with a Python number, which torch may replace by a multiplication with
the reciprocal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import UserError

__all__ = [
    "autocontrast",
    "brightness",
    "check_images",
    "color",
    "contrast",
    "equalize",
    "exact_device",
    "identity",
    "invert",
    "posterize",
    "sharpness",
    "solarize",
]

LEVELS = 256

#: Devices that have no float64: Apple's.
WITHOUT_FLOAT64 = frozenset({"mps"})


def exact_device(device: torch.device) -> torch.device:
    """Return where float64 values of a device are computed: there, or on the CPU where the device has none.

    Args:
        device: The device; Apple's has no float64.

    Example:
        >>> exact_device(torch.device("mps")), exact_device(torch.device("cuda", 1))
        (device(type='cpu'), device(type='cuda', index=1))
    """
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of uint8 images with one or three channels.

    Args:
        images: What was given.

    Raises:
        UserError: They are not uint8, not four-dimensional, without pixels, or with channels other than 1 or 3.

    Example:
        >>> check_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
        >>> check_images(torch.zeros(2, 3, 8, 8))
        Traceback (most recent call last):
        layermatch.errors.UserError: images of torch.float32 are not legal: give torch.uint8, 0 to 255
    """
    if images.dtype != torch.uint8:
        raise UserError(f"images of {images.dtype} are not legal: give torch.uint8, 0 to 255")
    if images.ndim != 4:
        raise UserError(f"images of shape {tuple(images.shape)} are not legal: give (N, C, H, W)")
    if images.shape[1] not in {1, 3}:
        raise UserError(f"images with {images.shape[1]} channels are not legal: give 1 (grey) or 3 (RGB)")
    if 0 in images.shape[2:]:
        raise UserError(f"images of shape {tuple(images.shape)} are not legal: give at least one pixel")


def identity(images: Tensor, _magnitude: Tensor) -> Tensor:
    """Return the images as they are (RandAugment, Cubuk et al. 2020: Identity).

    Args:
        images: uint8 (N, C, H, W).
        _magnitude: (N,), ignored.

    Example:
        >>> images = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)
        >>> identity(images, torch.zeros(1)).unique().tolist()
        [7]
    """
    return images.clone()


def invert(images: Tensor, _magnitude: Tensor) -> Tensor:
    """Negate: 255 - v (``PIL.ImageOps.invert``). TorchSSL and USB define it and draw it never.

    Args:
        images: uint8 (N, C, H, W).
        _magnitude: (N,), ignored.

    Example:
        >>> images = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)
        >>> invert(images, torch.zeros(1)).unique().tolist()
        [248]
    """
    return images.bitwise_not()


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the upper bits of each value (``PIL.ImageOps.posterize``).

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), bits kept in 1 .. 8, cut to a whole number, at least 1. TorchSSL and USB: 4 .. 8.

    Example:
        >>> images = torch.full((1, 1, 2, 2), 0b01011101, dtype=torch.uint8)
        >>> bin(posterize(images, torch.tensor([4.9]))[0, 0, 0, 0])
        '0b1010000'
    """
    bits = magnitude.to(torch.int64).clamp(1, 8)
    mask = (255 << (8 - bits)) & 255
    return images & _column(mask, images, torch.uint8)


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Invert the values at or above a threshold (``PIL.ImageOps.solarize``).

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), threshold in 0 (invert all) .. 256 (invert none). TorchSSL and USB: 0 .. 256.

    Example:
        >>> images = torch.tensor([99, 100, 101], dtype=torch.uint8).view(1, 1, 1, 3)
        >>> solarize(images, torch.tensor([100.0])).flatten().tolist()
        [99, 155, 154]
    """
    threshold = _column(magnitude.ceil(), images, torch.int16)
    # The sign of v - threshold, spread over all bits, is the mask: on a CPU far faster than comparing uint8.
    below = images.to(torch.int16).sub_(threshold).bitwise_right_shift_(15)  # -1 where v < threshold, else 0
    above = below.bitwise_not_().bitwise_and_(255).to(torch.uint8)
    return above.bitwise_xor_(images)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with black (``PIL.ImageEnhance.Brightness``): m * v, cut to a whole number.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), m in [0, 1]; 1 leaves the image as it is. TorchSSL and USB: 0.05 .. 0.95.

    Example:
        >>> images = torch.full((1, 1, 2, 2), 101, dtype=torch.uint8)
        >>> brightness(images, torch.tensor([0.5])).unique().tolist()
        [50]
    """
    return _to_uint8(images.to(torch.float32).mul_(_column(magnitude, images, torch.float32)))


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the grey image (``PIL.ImageEnhance.Color``); a grey image stays as it is.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), weight of the colours in [0, 1]. TorchSSL and USB: 0.05 .. 0.95.

    Example:
        >>> images = torch.tensor([200, 100, 0], dtype=torch.uint8).view(1, 3, 1, 1)
        >>> color(images, torch.tensor([0.5])).flatten().tolist()
        [159, 109, 59]
    """
    if images.shape[1] == 1:
        return images.clone()
    pixels = images.to(torch.float32)
    return _blend(_luma(pixels), pixels, magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the mean of the grey image, rounded (``PIL.ImageEnhance.Contrast``).

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), weight of the image in [0, 1]. TorchSSL and USB: 0.05 .. 0.95.

    Example:
        >>> images = torch.tensor([0, 200], dtype=torch.uint8).view(1, 1, 1, 2)
        >>> contrast(images, torch.tensor([0.5])).flatten().tolist()
        [50, 150]
    """
    pixels = images.to(torch.float32)
    luma = _luma(pixels)
    # A row's sum is exact in float32 in any order. The mean is rounded in whole numbers: (2 total + n) // 2n.
    total = luma.sum(dim=(1, 3)).to(torch.int64).sum(dim=1)  # (N,)
    count = luma.shape[2] * luma.shape[3]
    mean = (2 * total + count).div_(2 * count, rounding_mode="floor")
    return _blend(mean.to(torch.float32).view(-1, 1, 1, 1), pixels, magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with the smoothed image (``PIL.ImageEnhance.Sharpness``, ``PIL.ImageFilter.SMOOTH``).

    The smoothing kernel is (1 1 1, 1 5 1, 1 1 1) / 13, rounded to the nearest level; the border stays.

    Args:
        images: uint8 (N, C, H, W).
        magnitude: (N,), weight of the image in [0, 1]. TorchSSL and USB: 0.05 .. 0.95.

    Example:
        >>> images = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
        >>> images[0, 0, 1, 1] = 130
        >>> sharpness(images, torch.tensor([0.0]))[0, 0, 1, 1].item()
        50
    """
    sharpened = images.clone()
    if min(images.shape[2:]) < 3:
        return sharpened
    levels = images.to(torch.int16)
    rows = levels[..., :-2, :] + levels[..., 1:-1, :]
    rows += levels[..., 2:, :]  # (N, C, H-2, W), sums of three
    total = rows[..., :-2] + rows[..., 1:-1]
    total += rows[..., 2:]
    inner = levels[..., 1:-1, 1:-1]
    total.add_(inner, alpha=4)  # (N, C, H-2, W-2), whole numbers up to 13 * 255
    # total / 13 is never nearer than 1/26 to a rounding boundary, so float32 rounds as whole numbers would.
    smooth = total.to(torch.float32).mul_(1 / 13).round_()
    sharpened[..., 1:-1, 1:-1] = _blend(smooth, inner.to(torch.float32), magnitude)
    return sharpened


def autocontrast(images: Tensor, _magnitude: Tensor) -> Tensor:
    """Stretch each channel to the full range 0 .. 255 (``PIL.ImageOps.autocontrast``, no cutoff).

    A channel of one value stays as it is.

    Args:
        images: uint8 (N, C, H, W).
        _magnitude: (N,), ignored.

    Example:
        >>> images = torch.tensor([10, 20, 60], dtype=torch.uint8).view(1, 1, 1, 3)
        >>> autocontrast(images, torch.zeros(1)).flatten().tolist()
        [0, 51, 255]
    """
    planes, place = images.flatten(2), exact_device(images.device)  # (N, C, H*W)
    low = planes.amin(dim=2, keepdim=True).to(place).to(torch.float64)
    span = planes.amax(dim=2, keepdim=True).to(place).to(torch.float64) - low
    # float64, a true division and this order on purpose: PIL's table is v * scale + offset in Python floats.
    scale = torch.full_like(span, 255) / span  # infinite for a channel of one value, whose table is replaced
    levels = torch.arange(LEVELS, dtype=torch.float64, device=place)
    table = (levels * scale + -low * scale).clamp_(0, 255)
    table = torch.where(span > 0, table, levels)
    return _lookup(planes.to(torch.int64), table).view(images.shape)


def equalize(images: Tensor, _magnitude: Tensor) -> Tensor:
    """Spread the levels of each channel evenly, by its histogram (``PIL.ImageOps.equalize``).

    With h the histogram and s = (H*W - h[largest level]) // 255, level v becomes
    (s // 2 + sum_{u<v} h[u]) // s, at most 255; a channel with s = 0 stays as it is.

    Args:
        images: uint8 (N, C, H, W).
        _magnitude: (N,), ignored.

    Example:
        >>> images = torch.arange(100, 120, dtype=torch.uint8).repeat(20).view(1, 1, 20, 20)
        >>> equalize(images, torch.zeros(1)).unique().tolist()[:4]
        [0, 20, 40, 60]
    """
    planes = images.flatten(2)  # (N, C, H*W)
    index = planes.to(torch.int64)
    one = torch.ones((), dtype=torch.int32, device=images.device)
    histogram = torch.zeros((*planes.shape[:2], LEVELS), dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, index, one.expand(index.shape))
    brightest = histogram.gather(2, planes.amax(dim=2, keepdim=True).to(torch.int64))
    step = (planes.shape[2] - brightest).div_(255, rounding_mode="floor")  # (N, C, 1)
    before = histogram.cumsum(dim=2, dtype=torch.int32).sub_(histogram)
    table = (before + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    levels = torch.arange(LEVELS, dtype=torch.int32, device=images.device)
    return _lookup(index, torch.where(step > 0, table, levels)).view(images.shape)


def _column(values: Tensor, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one value per sample, (N,) to (N, 1, 1, 1), on the images' device without making the host wait."""
    return values.to(dtype).to(images.device, non_blocking=True).view(-1, 1, 1, 1)


def _luma(pixels: Tensor) -> Tensor:
    """Compute the grey levels (N, 1, H, W) of float32 pixels, PIL's whole-number ITU-R 601-2 weights; exact."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    luma = (red * 19595).add_(green * 38470).add_(blue * 7471)
    return luma.add_(32768).mul_(2.0**-16).floor_()


def _blend(degenerate: Tensor, pixels: Tensor, magnitude: Tensor) -> Tensor:
    """Compute d + m * (v - d), one rounding per operation as ``PIL.Image.blend``; overwrites ``pixels``."""
    weight = _column(magnitude, pixels, torch.float32)
    return _to_uint8(pixels.sub_(degenerate).mul_(weight).add_(degenerate))


def _to_uint8(pixels: Tensor) -> Tensor:
    """Cut float32 values in [0, 255] to whole numbers; by way of int16, three times faster on a CPU."""
    return pixels.to(torch.int16).to(torch.uint8)


def _lookup(index: Tensor, table: Tensor) -> Tensor:
    """Map levels (N, C, H*W), int64, by a table per channel (N, C, 256), cut to whole numbers."""
    return table.to(torch.uint8).to(index.device).gather(2, index)
