"""Any map-style data set of PyTorch as a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import UNKNOWN, ImageSet, SourceData
from layermatch.errors import UserError

__all__ = ["Datasets", "MapStyle"]


class MapStyle(Protocol):
    """A map-style data set, such as those of torchvision: ``dataset[i]`` is an image and its class."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return an image and its class, or an image alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """Images of data set objects: ``torch.utils.data.Dataset``, those of torchvision, or a list of pairs.

    An item is ``(image, label)``; in ``unlabelled`` it may be the image alone. An image is a PIL image, a uint8 array
    ``(H, W)`` or ``(H, W, C)``, or a uint8 tensor ``(C, H, W)``, C 1 or 3, all of one size: give the data set a
    transform that crops or resizes, and none that makes floats or augments, which happens on the device later. All
    images are read into memory when the data module is set up.

    Args:
        train: The labelled pool; ``num_labels`` of the data module says how many of its labels are used.
        unlabelled: Further images, whose labels, where they have some, are for diagnostics only.
        test: The test set.
        classes: The names of the classes. None takes ``train.classes``, or the numbers from 0 to the largest label.

    Example:
        >>> pairs = [(np.zeros((8, 8), np.uint8), label % 2) for label in range(6)]
        >>> data = Datasets(train=pairs, classes=("cat", "dog")).load()
        >>> data.labelled.images.shape, data.labelled.labels.tolist()
        ((1, 8, 8), [0, 1, 0, 1, 0, 1])
    """

    train: MapStyle
    unlabelled: MapStyle | None = None
    test: MapStyle | None = None
    classes: Sequence[str] | None = None

    def load(self) -> SourceData:
        """Read every image.

        Raises:
            UserError: An item is not what it should be.
        """
        labelled = _read("train", self.train, needs_label=True)
        names = self.classes or getattr(self.train, "classes", None) or map(str, range(int(labelled.labels.max()) + 1))
        return SourceData(
            classes=tuple(str(name) for name in names),
            labelled=labelled,
            unlabelled=None if self.unlabelled is None else _read("unlabelled", self.unlabelled, needs_label=False),
            test=None if self.test is None else _read("test", self.test, needs_label=True),
        )


def _read(part: str, dataset: MapStyle, *, needs_label: bool) -> ImageSet:
    if not len(dataset):
        raise UserError(f"{part} has no images")
    first, _ = _item(f"{part}[0]", dataset[0], needs_label=needs_label)
    images = np.empty((len(dataset), *first.shape), np.uint8)
    labels = np.full(len(dataset), UNKNOWN, np.int64)
    for index in range(len(dataset)):
        image, label = _item(f"{part}[{index}]", dataset[index], needs_label=needs_label)
        if image.shape != images.shape[1:]:
            raise UserError(
                f"{part}[{index}] has shape {image.shape}, the images before it {images.shape[1:]}: give the data set "
                "a transform that makes one size of them"
            )
        images[index], labels[index] = image, label
    return ImageSet(images=ArrayImages(images), labels=labels)


def _item(name: str, item: Any, *, needs_label: bool) -> tuple[NDArray[np.uint8], int]:
    image, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, UNKNOWN)
    if needs_label and (isinstance(label, float) or int(label) < 0):
        raise UserError(f"{name} has the class {label!r}: give (image, class) with a class from 0")
    return _pixels(name, image), int(label)


def _pixels(name: str, image: Any) -> NDArray[np.uint8]:
    """Return an image as ``(C, H, W)``."""
    legal = "give PIL images, uint8 arrays (H, W, C) or uint8 tensors (C, H, W)"
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8:
            raise UserError(f"{name} is a tensor of {image.dtype}: {legal}, without a transform that makes floats")
        pixels = image.numpy() if image.ndim == 3 else image.numpy()[None]
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8:
            raise UserError(f"{name} is {type(image).__name__} of {array.dtype}: {legal}")
        pixels = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if pixels.ndim != 3 or pixels.shape[0] not in {1, 3}:
        raise UserError(f"{name} has shape {pixels.shape}: {legal}, with 1 or 3 channels")
    return pixels
