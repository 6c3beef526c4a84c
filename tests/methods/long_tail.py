"""A problem with long-tailed labels, and a network that is a linear map, for the tests of methods for such."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tests import given
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.networks import Network
from layermatch.parts import Problem

Floats = NDArray[np.float64]

K, D, B, N = 4, 5, 8, 24
COUNTS = (20, 10, 5, 2)
PROBLEM = Problem(K, D, sum(COUNTS), 100, (1, 1, D), 10, COUNTS)


class Linear(nn.Module):
    """Features are a linear map of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(D, D, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(images.flatten(1))


def network_of(heads: dict[str, nn.Module], *, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(Linear(), num_features=D, num_classes=K)
    for name, head in heads.items():
        network.add_head(name, head)
    return network.double()


def batch_of(views: tuple[str, ...], *, seed: int = 0, scale: float = 3.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        return scale * torch.randn(count, 1, 1, D, dtype=torch.float64, generator=generator)

    label = torch.randint(K, (B,), generator=generator)
    of_pool = {view: images(N) for view in views}
    return given.batch_of(images(B), label, of_pool)


def softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def cross_entropies(logits: Floats, target: Floats) -> Floats:
    """Of each row, against class indices or probabilities."""
    if target.ndim == 1:
        target = np.eye(logits.shape[1])[target.astype(int)]
    return -(target * np.log(softmax(logits))).sum(axis=1)
