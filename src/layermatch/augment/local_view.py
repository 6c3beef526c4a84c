"""A local view: a small part of an image, in other colours and of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from layermatch.augment.jitter import ORDERS, jitter, luma
from layermatch.augment.ops import check_images
from layermatch.augment.resampling import resized_crop
from layermatch.errors import UserError, check_bool, check_number

__all__ = ["LocalView"]

#: Of torchvision's RandomResizedCrop: the smallest and the largest width of a box over its height.
_RATIOS = (3 / 4, 4 / 3)

#: How far brightness, contrast and saturation go from 1, and the hue from 0.
_STRENGTHS = (0.4, 0.4, 0.4, 0.1)

_JITTERED, _GREY, _SOLARIZED = 0.8, 0.2, 0.05


class LocalView:
    """A box of a share of the image's area, resampled to a smaller size, mirrored, and in other colours.

    The local view of JEPAMatch, from the authors' code (torchvision's RandomResizedCrop, RandomHorizontalFlip,
    ColorJitter with probability 0.8, RandomGrayscale with 0.2 and RandomSolarize). A pure function of (images, draws).

    ============= =========================================================================
    column        use of the uniform u
    ============= =========================================================================
    area          the area of the box: scale[0] + (scale[1] - scale[0]) * u of the image's
    ratio         its width over its height, log-uniform from 3/4 to 4/3
    crop_y        its first row, floor(u * (height - its height + 1))
    crop_x        its first column, likewise
    flip          mirrored if u < 0.5; not read if ``flip`` is false
    jittered      the colours change if u < 0.8
    brightness    the factor, 0.6 + 0.8 * u
    contrast      the factor, likewise
    saturation    the factor, likewise
    hue           the turn of the circle of hues, -0.1 + 0.2 * u
    order         the order of these four, floor(u * 24)
    grey          grey if u < 0.2
    solarized     values of 128 and more are inverted if u < 0.05
    ============= =========================================================================

    NOTE: The authors' code asks for RandomSolarize with probability 0.1, which itself acts every second time.

    NOTE: torchvision draws a box anew that is longer than the image; here it is as long as the image. With ``scale`` up
    to 0.75 and square images there is none.

    Args:
        flip: Whether to flip.
        side: The side of the view as a share of the image's, above 0 and at most 1: 20 of 32 for CIFAR, 32 of 96 for
            STL-10.
        scale: The smallest and the largest share of the image's area, above 0 and at most 1.

    Raises:
        UserError: An argument is out of range.

    Example:
        >>> view = LocalView()
        >>> view
        LocalView(flip=True, side=0.625, scale=(0.2, 0.5))
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> view(images, torch.rand(2, view.num_draws)).shape
        torch.Size([2, 3, 20, 20])
    """

    def __init__(self, *, flip: bool = True, side: float = 0.625, scale: Sequence[float] = (0.2, 0.5)) -> None:
        check_bool("flip", flip)
        check_number("local_side", side, low=0, high=1, low_open=True)
        _check_pair("local_scale", scale)
        for number in scale:
            check_number("local_scale", number, low=0, high=1, low_open=True)
        if scale[0] > scale[1]:
            raise UserError(f"local_scale={list(scale)} is not legal: give the smaller number first")
        self.flip = flip
        self.side = side
        self.scale = (scale[0], scale[1])

    @property
    def columns(self) -> tuple[str, ...]:
        """What each column of the draws decides."""
        colours = ("jittered", "brightness", "contrast", "saturation", "hue", "order", "grey", "solarized")
        return ("area", "ratio", "crop_y", "crop_x", "flip", *colours)

    @property
    def num_draws(self) -> int:
        """Uniforms per sample."""
        return len(self.columns)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Make the view.

        Args:
            images: uint8 (N, C, H, W), C 1 or 3; is not modified.
            draws: float (N, num_draws) in [0, 1).

        Returns:
            uint8 (N, C, h, w) on the device of ``images``, with h and w the rounded share of H and W.

        Raises:
            UserError: Illegal images or draws.
        """
        check_images(images)
        shape = (len(images), self.num_draws)
        if draws.shape != shape or not draws.is_floating_point():
            raise UserError(f"draws of shape {tuple(draws.shape)}, {draws.dtype}, are not legal: give floats {shape}")
        # One copy to the host, which must know who changes anyway.
        of = dict(zip(self.columns, draws.cpu().to(torch.float64).unbind(1), strict=True))
        return self._recolour(self._crop_and_flip(images, of), of)

    def __repr__(self) -> str:
        return f"LocalView(flip={self.flip}, side={self.side}, scale={self.scale})"

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the view of an image.

        Args:
            height: The image's rows.
            width: The image's columns.
        """
        return max(round(self.side * height), 1), max(round(self.side * width), 1)

    def _crop_and_flip(self, images: Tensor, of: dict[str, Tensor]) -> Tensor:
        rows, columns = images.shape[2:]
        low, high = self.scale
        area = (low + (high - low) * of["area"]) * rows * columns
        smallest, largest = (math.log(ratio) for ratio in _RATIOS)
        ratio = (smallest + (largest - smallest) * of["ratio"]).exp()
        width = (area * ratio).sqrt().round().to(torch.int64).clamp(1, columns)
        height = (area / ratio).sqrt().round().to(torch.int64).clamp(1, rows)
        view = resized_crop(
            images,
            top=(of["crop_y"] * (rows - height + 1)).to(torch.int64),
            left=(of["crop_x"] * (columns - width + 1)).to(torch.int64),
            height=height,
            width=width,
            size=self.size_of(rows, columns),
        )
        if self.flip:
            mirrored = _rows(of["flip"] < 0.5, view)
            view[mirrored] = view[mirrored].flip(3)
        return view

    def _recolour(self, view: Tensor, of: dict[str, Tensor]) -> Tensor:
        pixels = view.to(torch.float32) / 255
        jittered = of["jittered"] < _JITTERED
        drawn = torch.stack([of[name] for name in ("brightness", "contrast", "saturation", "hue")], dim=1)[jittered]
        factors = torch.tensor([1.0, 1.0, 1.0, 0.0]) + torch.tensor(_STRENGTHS) * (2 * drawn - 1)
        rows = _rows(jittered, view)
        order = (of["order"][jittered] * len(ORDERS)).to(torch.int64)
        pixels[rows] = jitter(pixels[rows], factors=factors, order=order)
        grey = _rows(of["grey"] < _GREY, view)
        pixels[grey] = luma(pixels[grey]).expand_as(pixels[grey])
        solarized = _rows(of["solarized"] < _SOLARIZED, view)
        part = pixels[solarized]
        pixels[solarized] = torch.where(part >= 128 / 255, 1 - part, part)
        return (pixels * 255).round_().to(torch.uint8)


def _check_pair(name: str, value: object) -> None:
    """Refuse what is no sequence of two."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise UserError(f"{name}={value!r} is not legal: give two numbers, [smallest, largest]")


def _rows(chosen: Tensor, images: Tensor) -> Tensor:
    """Return the positions of the chosen samples, on the images' device."""
    return chosen.nonzero()[:, 0].to(images.device, non_blocking=True)
