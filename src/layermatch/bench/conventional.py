"""The conventional FixMatch recipe: PIL views in loader workers, float32, one joint forward.

A plain PyTorch loop as users of the common PyTorch codes have it, well written and not slowed: no ``.item()`` in a
step, loaders with workers, pinned memory on a GPU. It is what ``python -m layermatch.bench step`` compares
with. Of the package it uses the network alone.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import functional as transforms

from layermatch.bench.pil_pipeline import PilPipeline
from layermatch.networks import Network

__all__ = ["fixmatch_loss", "make_optimizer", "train", "update_average"]

#: Random numbers that the weak view of :class:`~layermatch.bench.pil_pipeline.PilPipeline` takes, and a strong view
#: beside those of its operations.
WEAK_DRAWS, BESIDE_OPERATIONS = 3, 6


class _Images(Dataset[tuple[Tensor, ...]]):
    """PIL views of images (N, H, W, C), as tensors; one view with the label, or the two views of FixMatch."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        pipeline: PilPipeline | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.mean = list(mean)
        self.std = list(std)
        self.pipeline = pipeline or PilPipeline()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        pixels = self.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        weak = self._tensor(self.pipeline.weak(image, _draws(WEAK_DRAWS)))
        if self.labels is not None:
            return weak, torch.tensor(self.labels[index])
        strong_draws = BESIDE_OPERATIONS + 2 * self.pipeline.num_ops
        return weak, self._tensor(self.pipeline.strong(image, _draws(strong_draws)))

    def _tensor(self, image: Image.Image) -> Tensor:
        tensor: Tensor = transforms.normalize(transforms.to_tensor(image), self.mean, self.std)
        return tensor


def _draws(count: int) -> list[float]:
    return [random.random() for _ in range(count)]


def fixmatch_loss(
    network: Network, labelled: Tensor, label: Tensor, weak: Tensor, strong: Tensor, *, threshold: float = 0.95
) -> Tensor:
    r"""Compute FixMatch's loss by one joint forward.

    .. math:: L = \frac{1}{B} \sum_i H(y_i, p_i) + \frac{1}{N} \sum_u 1[\max p(w(u)) \ge \tau] H(\hat y_u, p(s(u)))

    Source: FixMatch (Sohn et al. 2020, eq. 3 and 4), written a second time.

    Args:
        network: The network; it gives (features, logits).
        labelled: ``(B, C, H, W)`` float32.
        label: ``(B,)`` int64.
        weak: ``(N, C, H, W)`` float32.
        strong: ``(N, C, H, W)`` float32.
        threshold: The confidence that a pseudo-label needs, in ``(0, 1]``.

    Returns:
        A scalar.
    """
    logits = network(torch.cat([labelled, weak, strong])).logits
    logits_labelled = logits[: len(labelled)]
    logits_weak, logits_strong = logits[len(labelled) :].chunk(2)
    loss = F.cross_entropy(logits_labelled, label)
    confidence, target = torch.softmax(logits_weak.detach(), dim=-1).max(dim=-1)
    mask = (confidence >= threshold).float()
    return loss + (F.cross_entropy(logits_strong, target, reduction="none") * mask).mean()


def make_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Make SGD with FixMatch's settings; biases and BatchNorm are not decayed.

    Args:
        network: The network that the optimizer will train.
    """
    decayed = [p for p in network.parameters() if p.ndim > 1]
    undecayed = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.03, momentum=0.9, nesterov=True)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, *, decay: float = 0.999) -> None:
    """Move the average of the weights; buffers are copied.

    Args:
        average: A copy of ``network``, which is changed in place.
        network: The live network.
        decay: The decay of the average, in ``[0, 1)``.
    """
    for mean, live in zip(average.parameters(), network.parameters(), strict=True):
        mean.mul_(decay).add_(live, alpha=1 - decay)
    for copied, buffer in zip(average.buffers(), network.buffers(), strict=True):
        copied.copy_(buffer)


def train(
    network: Network,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    labelled: Sequence[int],
    *,
    batch_size: int,
    mu: int,
    max_steps: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    num_workers: int = 2,
    on_step: Callable[[int, Tensor], None],
    pipeline: PilPipeline | None = None,
    average: nn.Module | None = None,
    decay: float = 0.999,
) -> nn.Module:
    """Train FixMatch for some steps.

    Args:
        network: The network; it is changed in place and moved to ``device``.
        images: ``(N, H, W, C)`` uint8: the unlabelled pool, labelled images included.
        labels: ``(N,)`` int64.
        labelled: The positions of the labelled images.
        batch_size: The labelled images per step.
        mu: The unlabelled images per labelled one.
        max_steps: The optimizer steps.
        mean: The mean of each channel.
        std: The standard deviation of each channel.
        device: The device that computes.
        num_workers: The number of processes of each of the two loaders.
        on_step: A function that is called with the number of steps done and the loss, after each step.
        pipeline: What makes the views; None is that of colour images.
        average: A copy of the network that becomes the average of its weights, for a caller that evaluates it during
            training; None makes one.
        decay: The decay of the average, in ``[0, 1)``.

    Returns:
        The average of the weights.
    """
    positions = np.asarray(labelled)
    sets = (
        (_Images(images[positions], labels[positions], mean=mean, std=std, pipeline=pipeline), batch_size),
        (_Images(images, None, mean=mean, std=std, pipeline=pipeline), batch_size * mu),
    )
    loader_labelled, loader_unlabelled = (
        DataLoader(
            dataset,
            batch_size=size,
            sampler=RandomSampler(dataset, replacement=True, num_samples=size * max_steps),
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
        )
        for dataset, size in sets
    )
    network = network.to(device).train()
    average = copy.deepcopy(network) if average is None else average.to(device)
    average.requires_grad_(False).eval()
    optimizer = make_optimizer(network)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: math.cos(7 * math.pi * k / (16 * max_steps)))
    for step, ((weak_labelled, label), (weak, strong)) in enumerate(
        zip(loader_labelled, loader_unlabelled, strict=True), start=1
    ):
        batch = [tensor.to(device, non_blocking=True) for tensor in (weak_labelled, label, weak, strong)]
        loss = fixmatch_loss(network, *batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        update_average(average, network, decay=decay)
        on_step(step, loss.detach())
    return average
