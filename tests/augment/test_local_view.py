"""The local view is PIL's and torchvision's, sample by sample, from the same draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from layermatch.augment import LocalView
from layermatch.augment.jitter import ORDERS, jitter
from layermatch.augment.resampling import resized_crop
from layermatch.errors import UserError


def drawn(count: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.rand(count, width, generator=torch.Generator().manual_seed(seed))


def noise(count: int, channels: int, height: int, width: int, *, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def soft_noise(count: int, channels: int, height: int, width: int) -> Tensor:
    """Levels that a cubic kernel does not take out of 0 .. 255: there the order of PIL's two passes would be seen."""
    return noise(count, channels, height, width) // 3 + 85


def by_pil(image: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """A box (left, top, right, bottom) of an image (C, H, W), resampled to rows and columns."""
    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    found = np.asarray(picture.crop(box).resize(size[::-1], Image.Resampling.BICUBIC))
    return torch.from_numpy(found.reshape(*size, -1).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 5), (20, 9), (40, 50)])  # smaller than the boxes, and larger
def test_boxes_are_resampled_as_pil_does(size: tuple[int, int], channels: int) -> None:
    images = soft_noise(60, channels, 24, 32)
    draws = drawn(60, 4)
    height, width = ((draws[:, i] * side).long() + 1 for i, side in enumerate((24, 32)))
    top, left = (draws[:, 2] * (25 - height)).long(), (draws[:, 3] * (33 - width)).long()
    found = resized_crop(images, top=top, left=left, height=height, width=width, size=size)
    for n, image in enumerate(images):
        y, x = int(top[n]), int(left[n])
        expected = by_pil(image, (x, y, x + int(width[n]), y + int(height[n])), size)
        assert (found[n].int() - expected.int()).abs().max() <= 2  # a level for each pass


def jitter_by_torchvision(image: Tensor, factors: Tensor, order: int) -> Tensor:
    changes = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for number in ORDERS[order].tolist():
        image = changes[number](image, float(factors[number]))
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_as_torchvision_changes_them(channels: int) -> None:
    images = noise(72, channels, 6, 5).float() / 255
    images[0], images[1] = 0.0, 0.5  # black, and grey: no hue
    images[2, :] = torch.tensor([1.0, 1.0, 0.0])[:channels, None, None]  # two largest channels
    factors = torch.tensor([0.6, 0.6, 0.6, -0.1]) + torch.tensor([0.8, 0.8, 0.8, 0.2]) * drawn(72, 4)
    order = torch.arange(72) % 24
    found = jitter(images, factors=factors, order=order)
    for n, image in enumerate(images):
        torch.testing.assert_close(found[n], jitter_by_torchvision(image, factors[n], int(order[n])), rtol=0, atol=2e-5)


def restated(image: Tensor, u: dict[str, float], *, flip: bool, side: float, scale: tuple[float, float]) -> Tensor:
    """One sample by PIL and torchvision."""
    rows, columns = image.shape[1:]
    area = (scale[0] + (scale[1] - scale[0]) * u["area"]) * rows * columns
    ratio = math.exp(math.log(0.75) + (math.log(4 / 3) - math.log(0.75)) * u["ratio"])
    width, height = min(round(math.sqrt(area * ratio)), columns), min(round(math.sqrt(area / ratio)), rows)
    y, x = int(u["crop_y"] * (rows - height + 1)), int(u["crop_x"] * (columns - width + 1))
    size = (round(side * rows), round(side * columns))
    view = by_pil(image, (x, y, x + width, y + height), size)
    if flip and u["flip"] < 0.5:
        view = view.flip(2)
    pixels = view.float() / 255
    if u["jittered"] < 0.8:
        names = ("brightness", "contrast", "saturation", "hue")
        strengths = torch.tensor([0.4, 0.4, 0.4, 0.1])
        factors = torch.tensor([1.0, 1.0, 1.0, 0.0]) + strengths * (2 * torch.tensor([u[name] for name in names]) - 1)
        pixels = jitter_by_torchvision(pixels, factors, int(u["order"] * 24))
    if u["grey"] < 0.2 and len(pixels) == 3:
        pixels = tv.rgb_to_grayscale(pixels, num_output_channels=3)
    if u["solarized"] < 0.05:
        pixels = tv.solarize(pixels, 128 / 255)
    return (pixels * 255).round().to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"flip": False, "side": 0.3, "scale": (0.1, 1.0)}])
def test_it_is_the_view_of_torchvision(options: dict[str, object], channels: int) -> None:
    view, images = LocalView(**options), soft_noise(300, channels, 20, 20)
    draws = drawn(300, view.num_draws, seed=5)
    draws[:40, view.columns.index("solarized")] = 0.01
    found = view(images, draws)
    for n, image in enumerate(images):
        u = dict(zip(view.columns, draws[n].tolist(), strict=True))
        expected = restated(image, u, flip=view.flip, side=view.side, scale=view.scale)
        difference = (found[n].int() - expected.int()).abs()
        if u["solarized"] < 0.05:  # next to the threshold a level makes all the difference
            difference = difference[(expected.int() - 128).abs() > 6]
        # Two levels of resampling, which brightness, contrast and saturation make larger.
        assert difference.max() <= 10
        assert difference.float().mean() < 1.5


def test_a_sample_depends_on_its_own_row_alone() -> None:
    view, images = LocalView(), noise(24, 3, 16, 16)
    draws = drawn(24, view.num_draws)
    turned = torch.arange(23, -1, -1)
    before = images.clone()
    whole = view(images, draws)
    assert torch.equal(images, before)
    assert torch.equal(view(images[turned], draws[turned]), whole[turned])
    for n in (0, 7):
        assert torch.equal(view(images[n : n + 1], draws[n : n + 1]), whole[n : n + 1])
    assert view(images[:0], draws[:0]).shape == (0, 3, 10, 10)


def test_the_whole_image_at_its_own_size_stays_as_it_is() -> None:
    view, images = LocalView(side=1.0, scale=(1.0, 1.0), flip=False), noise(4, 3, 9, 9)
    draws = torch.full((4, view.num_draws), 0.9)
    draws[:, view.columns.index("ratio")] = 0.5
    assert torch.equal(view(images, draws), images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 0}, "local_side=0 is not legal"),
        ({"side": 1.5}, "local_side=1.5 is not legal"),
        ({"scale": 0.5}, "local_scale=0.5 is not legal: give two numbers"),
        ({"scale": (0.5, 0.2)}, r"local_scale=\[0.5, 0.2\] is not legal: give the smaller number first"),
        ({"scale": (0, 0.2)}, "local_scale=0 is not legal"),
        ({"flip": 1}, "flip=1 is not legal"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalView(**options)


def test_draws_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"draws of shape \(2, 3\)"):
        LocalView()(noise(2, 3, 8, 8), torch.rand(2, 3))
