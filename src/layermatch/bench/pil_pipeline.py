"""The conventional pipeline: one PIL image at a time, weak and strong views as TorchSSL and USB make them.

It is the oracle that the batched views of :mod:`layermatch.augment` are compared with, and the baseline of
their speed. It imports nothing of the package: names, ranges and draw order are written a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import functional as transforms

__all__ = ["OPERATIONS", "PilPipeline", "crop", "cutout", "to_batch", "to_images"]

Operation = Callable[[Image.Image, float], Image.Image]


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


#: name -> (function of image and magnitude, lowest magnitude, highest magnitude), as in TorchSSL and USB.
OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    "brightness": (lambda image, v: ImageEnhance.Brightness(image).enhance(v), 0.05, 0.95),
    "color": (lambda image, v: ImageEnhance.Color(image).enhance(v), 0.05, 0.95),
    "contrast": (lambda image, v: ImageEnhance.Contrast(image).enhance(v), 0.05, 0.95),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, 1),
    "identity": (lambda image, _: image, 0, 1),
    "posterize": (lambda image, v: ImageOps.posterize(image, max(1, int(v))), 4, 8),
    "rotate": (lambda image, v: image.rotate(v), -30, 30),
    "sharpness": (lambda image, v: ImageEnhance.Sharpness(image).enhance(v), 0.05, 0.95),
    "shear_x": (lambda image, v: _affine(image, 1, v, 0, 0, 1, 0), -0.3, 0.3),
    "shear_y": (lambda image, v: _affine(image, 1, 0, 0, v, 1, 0), -0.3, 0.3),
    "solarize": (ImageOps.solarize, 0, 256),  # type: ignore[dict-item]  # declared for int, compares any number
    "translate_x": (lambda image, v: _affine(image, 1, 0, v * image.size[0], 0, 1, 0), -0.3, 0.3),
    "translate_y": (lambda image, v: _affine(image, 1, 0, 0, 0, 1, v * image.size[1]), -0.3, 0.3),
    "invert": (lambda image, _: ImageOps.invert(image), 0, 1),
}


def crop(image: Image.Image, *, top: int, left: int, pad: tuple[int, int]) -> Image.Image:
    """Pad by reflection and cut out the original size.

    Args:
        image: PIL image, mode RGB or L.
        top: The first row of the cut in the padded image, 0 .. 2 * pad[0].
        left: The first column of the cut in the padded image, 0 .. 2 * pad[1].
        pad: The pixels added (above and below, left and right).
    """
    width, height = image.size
    padded: Image.Image = transforms.pad(image, [pad[1], pad[0]], padding_mode="reflect")
    return padded.crop((left, top, left + width, top + height))


def cutout(image: Image.Image, *, size: float, x: float, y: float) -> Image.Image:
    """Draw a grey box as TorchSSL and USB do.

    Args:
        image: PIL image, mode RGB or L.
        size: The side of the box as a fraction of the image's width.
        x: The horizontal centre as a fraction of the width.
        y: The vertical centre as a fraction of the height.
    """
    if size <= 0:
        return image
    width, height = image.size
    side = size * width
    x0 = int(max(0, x * width - side / 2))
    y0 = int(max(0, y * height - side / 2))
    box = (x0, y0, min(width, x0 + side), min(height, y0 + side))
    image = image.copy()
    ImageDraw.Draw(image).rectangle(box, (125, 123, 114) if image.mode == "RGB" else 121)
    return image


class PilPipeline:
    """Weak and strong views of one PIL image, from the same draws as the batched views.

    Args:
        flip: Whether to flip horizontally with probability one half.
        pad: The padding as a fraction of the side.
        num_ops: The number of operations per strong view.
        cutout: The largest side of the grey box as a fraction of the width, 0 for none.
        operations: Names to draw from; the default is the 14 of TorchSSL and USB.
    """

    def __init__(
        self,
        *,
        flip: bool = True,
        pad: float = 0.125,
        num_ops: int = 3,
        cutout: float = 0.5,
        operations: Sequence[str] = tuple(OPERATIONS)[:14],
    ) -> None:
        self.flip = flip
        self.pad = pad
        self.num_ops = num_ops
        self.cutout = cutout
        self.operations = tuple(operations)  # names: functions without a name cannot be sent to a worker process

    def weak(self, image: Image.Image, draws: Sequence[float]) -> Image.Image:
        """Crop and flip; draws are (top, left, flip)."""
        width, height = image.size
        pad = (round(self.pad * height), round(self.pad * width))
        top = int(draws[0] * (2 * pad[0] + 1))
        left = int(draws[1] * (2 * pad[1] + 1))
        image = crop(image, top=top, left=left, pad=pad)
        if self.flip and draws[2] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def strong(self, image: Image.Image, draws: Sequence[float]) -> Image.Image:
        """Make weak view, operations and cutout; draws are (weak ..., (operation, magnitude) ..., size, x, y)."""
        image = self.weak(image, draws[:3])
        for slot in range(self.num_ops):
            choice, uniform = draws[3 + 2 * slot : 5 + 2 * slot]
            operation, low, high = OPERATIONS[self.operations[int(choice * len(self.operations))]]
            image = operation(image, low + (high - low) * uniform)
        size, x, y = draws[3 + 2 * self.num_ops :]
        return cutout(image, size=self.cutout * size, x=x, y=y)

    def pair(
        self, image: Image.Image, draws_weak: Sequence[float], draws_strong: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """Return both views as float tensors in [0, 1], what a loader's worker returns for one image."""
        return transforms.to_tensor(self.weak(image, draws_weak)), transforms.to_tensor(
            self.strong(image, draws_strong)
        )


def to_images(images: Tensor) -> list[Image.Image]:
    """Turn a uint8 batch (N, C, H, W) into PIL images of mode RGB or L."""
    return [transforms.to_pil_image(image) for image in images]


def to_batch(images: Sequence[Image.Image]) -> Tensor:
    """Turn PIL images of one size and mode into a uint8 batch (N, C, H, W)."""
    return torch.stack([transforms.pil_to_tensor(image) for image in images])
