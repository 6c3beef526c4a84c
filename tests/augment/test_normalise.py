"""Normalisation: its equation, its layout, and the same values however it is computed."""

from __future__ import annotations

import pytest
import torch

from layermatch.augment import normalise
from layermatch.augment.normalise import CHUNK

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


SHAPES = [(0, 3, 8, 8), (1, 3, 8, 8), (5, 1, 8, 8), (3, 3, 1, 7), (3, 3, 7, 1), (2, 1, 1, 1), (45, 3, 96, 96)]


def plainly(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    result = images.to(torch.float32)
    for channel, (m, s) in enumerate(zip(mean, std, strict=False)):
        result[:, channel] = (result[:, channel] - torch.tensor(m) * 255) / (torch.tensor(s) * 255)
    return result


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_equation_to_the_bit(shape: tuple[int, ...], channels_last: bool) -> None:
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = images.clone()
    mean, std = MEAN[: shape[1]], STD[: shape[1]]
    result = normalise(images, mean=mean, std=std, channels_last=channels_last)
    assert torch.equal(result, plainly(images, mean, std))
    assert torch.equal(images, before)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert result.is_contiguous(memory_format=layout)


def test_a_large_batch_is_worked_on_in_parts() -> None:
    assert 2 * CHUNK < 45 * 3 * 96 * 96  # what the case above relies on


def test_images_that_are_a_view_of_others() -> None:
    images = torch.randint(256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    views = [
        images[::2],
        images.flip(3),
        images.permute(0, 1, 3, 2),
        images.contiguous(memory_format=torch.channels_last),
    ]
    for view in views:
        for channels_last in (False, True):
            result = normalise(view, mean=MEAN, std=STD, channels_last=channels_last)
            assert torch.equal(result, plainly(view, MEAN, STD))
