"""Images to compare on, and the conventional PIL pipeline as the oracle."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

PER_KIND = 1000


def _crops(picture: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    top = torch.randint(picture.shape[1] - 31, (count,), generator=generator).tolist()
    left = torch.randint(picture.shape[2] - 31, (count,), generator=generator).tolist()
    return [picture[:, y : y + 32, x : x + 32] for y, x in zip(top, left, strict=True)]


def _photographs() -> list[Tensor]:
    """Pictures (3, H, W): a folder of CIFAR images if the environment names one, else two photographs."""
    folder = os.environ.get("LAYERMATCH_CIFAR_JPEG")
    if folder is None:
        return [torch.tensor(picture).permute(2, 0, 1) for picture in load_sample_images().images]
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not paths:
        pytest.fail("LAYERMATCH_CIFAR_JPEG names a folder without images")
    step = max(1, len(paths) // PER_KIND)
    return [
        torch.tensor(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths[::step][:PER_KIND]
    ]


@pytest.fixture(scope="session")
def colour_images() -> Tensor:
    """1,000 noise images, 1,000 crops of photographs, uint8 (2000, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (PER_KIND, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pictures = _photographs()
    natural = [crop for picture in pictures for crop in _crops(picture, PER_KIND // len(pictures), generator)]
    return torch.cat([noise, torch.stack(natural)])


@pytest.fixture(scope="session")
def grey_images(colour_images: Tensor) -> Tensor:
    """One channel of the same images, uint8 (2000, 1, 32, 32)."""
    return colour_images[:, 1:2].contiguous()


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    return torch.Generator().manual_seed(1234)
