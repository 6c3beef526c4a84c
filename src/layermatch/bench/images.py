"""Images to measure on; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layermatch.data.images import ArrayImages
from layermatch.data.sources import ImageSet, SourceData

__all__ = ["RandomImages", "photograph_crops"]


def photograph_crops(count: int, *, size: int, seed: int = 0) -> Tensor:
    """Return the crops of scikit-learn's two photographs, at random places.

    Args:
        count: The number of crops, ``N``.
        size: The side of a crop, at most 427.
        seed: The seed that the places are drawn from.

    Returns:
        ``(N, 3, size, size)`` uint8.

    Example:
        >>> photograph_crops(4, size=32).shape
        torch.Size([4, 3, 32, 32])
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    pictures = [torch.tensor(picture).permute(2, 0, 1) for picture in load_sample_images().images]
    crops = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(rng.integers(side - size + 1)) for side in picture.shape[1:])
        crops.append(picture[:, top : top + size, left : left + size])
    return torch.stack(crops)


class RandomImages:
    """A source of random pixels with ten classes, to time a step or a reader on.

    Args:
        count: The number of images.
        size: The side of an image.
        folder: The folder in which a file with the pixels is written, to be mapped; None keeps them in memory.

    Example:
        >>> RandomImages(20, size=8).load().labelled.images.shape
        (3, 8, 8)
    """

    def __init__(self, count: int, *, size: int, folder: Path | None = None) -> None:
        rng = np.random.default_rng(0)
        self.pixels: NDArray[np.uint8] = rng.integers(256, size=(count, 3, size, size), dtype=np.uint8)
        self.labels: NDArray[np.int64] = np.arange(count, dtype=np.int64) % 10
        if folder is not None:
            path = folder / "pixels.bin"
            self.pixels.tofile(path)
            self.pixels = np.memmap(path, np.uint8, mode="r", shape=self.pixels.shape)

    def load(self) -> SourceData:
        """Return the images as a labelled pool."""
        pool = ImageSet(ArrayImages(self.pixels), self.labels)
        return SourceData(classes=tuple("0123456789"), labelled=pool, unlabelled=None, test=None)
