"""A small data set, a frozen extractor, and a data module that keeps its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData, Views
from layermatch.data.images import ArrayImages
from layermatch.data.sources import ImageSet, SourceData
from layermatch.networks import Network

PAIR = Views(unlabelled={"weak": "weak", "strong": "strong", "strong_2": "strong"})
NUM_TRAIN, NUM_MORE, NUM_TEST = 70, 10, 20


class Blobs:
    """A source of images of three classes that differ in brightness: 70 in the pool, 10 further ones, 20 to test on."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def load(self) -> SourceData:
        generator = np.random.default_rng(self.seed)

        def part(count: int) -> ImageSet:
            labels = np.arange(count) % 3
            pixels = generator.integers(0, 150, (count, 1, 8, 8)) + 50 * labels[:, None, None, None]
            return ImageSet(ArrayImages(pixels.astype(np.uint8)), labels)

        train, more, test = part(NUM_TRAIN), part(NUM_MORE), part(NUM_TEST)
        unlabelled = ImageSet(more.images, np.full(NUM_MORE, -1))
        return SourceData(classes=("dark", "grey", "light"), labelled=train, unlabelled=unlabelled, test=test)


class Extractor(nn.Module):
    """Convolutions with BatchNorm and dropout, which are as in evaluation wherever nothing learns."""

    num_features = 6

    def __init__(self, *, channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3)
        self.norm = nn.BatchNorm2d(channels)
        self.out = nn.Conv2d(channels, self.num_features, 3)
        self.dropout = nn.Dropout(0.5)
        #: The images that were computed.
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.dropout(self.out(self.norm(self.stem(images)).relu())).mean(dim=(2, 3))


def frozen_network(*, seed: int = 0, learns: bool = False) -> Network:
    torch.manual_seed(seed)
    network = Network(Extractor(), num_classes=3)
    nn.init.normal_(network.extractor.norm.running_mean)
    network.extractor.requires_grad_(learns)
    return network


def frozen_data(folder: Path, source: Blobs | None = None, **changes: Any) -> SemiSupervisedData:
    options: dict[str, Any] = {
        "num_labels": 12, "num_val": 9, "batch_size": 4, "mu": 2, "mean": (0.5,), "std": (0.25,), "seed": 0,
        "storage": "features", "feature_views": 2, "cache_dir": folder, "views": PAIR, "weak": WeakView(pad=0.5),
        "strong": StrongView(pad=0.5, num_ops=1), "eval_batch_size": 7,
    }  # fmt: skip
    data = SemiSupervisedData(source or Blobs(), **options | changes)
    data.setup()
    return data


def kept(data: SemiSupervisedData, network: Network, **options: Any) -> SemiSupervisedData:
    """The data module, which gives features from here on."""
    data.keep_features(network, device=torch.device("cpu"), **options)
    return data
