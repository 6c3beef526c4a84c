"""Weak and strong views of a batch against PIL, one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from layermatch.augment import OPERATIONS, RANDAUGMENT, StrongView, WeakView
from layermatch.bench import pil_pipeline
from layermatch.bench.images import RandomImages, photograph_crops
from layermatch.bench.own_process import OwnProcess
from layermatch.bench.report import Figure, Ratio, Section
from layermatch.bench.timing import alternate, timed
from layermatch.data import SemiSupervisedData

__all__ = ["measure"]

#: 7 unlabelled images for each of 64 labelled ones (FixMatch, Sohn et al. 2020).
NUM_IMAGES = 448
#: Size to the least ratio on one core that the project aims at.
TARGETS = {32: ">= 10", 96: ">= 4"}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def measure(*, device: torch.device, quick: bool, num_images: int = NUM_IMAGES) -> Section:
    """Return both views with normalisation, at 32x32 and 96x96, on one thread; in the full form each operation too.

    Args:
        device: What our views are computed on; PIL's are always on the CPU.
        quick: Whether to leave the single operations out and repeat less.
        num_images: The number of unlabelled images in a batch.
    """
    rounds = 3 if quick else 9
    section = Section("augment", {"images": num_images, "views": "weak + strong, normalised", "threads": 1})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with OwnProcess() as other:
            for size in TARGETS:
                _measure_pair(section, other, num_images=num_images, size=size, device=device, rounds=rounds)
        if not quick:
            for size in TARGETS:
                _measure_operations(section, photograph_crops(num_images, size=size), device=device, rounds=3)
    finally:
        torch.set_num_threads(threads)
    return section


def _measure_pair(
    section: Section, other: OwnProcess, *, num_images: int, size: int, device: torch.device, rounds: int
) -> None:
    images = photograph_crops(num_images, size=size)
    generator = torch.Generator().manual_seed(0)
    weak, strong = WeakView(), StrongView()
    draws = [torch.rand(len(images), view.num_draws, generator=generator) for view in (weak, strong)]
    lists = [view.tolist() for view in draws]
    pictures = pil_pipeline.to_images(images)
    variants: dict[str, Callable[[], float]] = {
        "ours": timed(_batched(images.to(device), draws, weak, strong), device),
        "PIL": partial(other.call, _seconds_one_by_one, images.numpy(), lists),
        "PIL, freed memory kept": timed(_one_by_one(pictures, lists), torch.device("cpu")),
    }
    times = alternate(variants, rounds=rounds, warmups=1)
    ours, pil, keeping = (Figure.in_ms(f"{name}, {size}x{size}", times[name]) for name in variants)
    section.figures += [ours, pil, keeping]
    target = TARGETS[size] if device.type == "cpu" else ""
    section.ratios.append(Ratio(f"times as fast as PIL, {size}x{size}", pil, ours, target))
    section.ratios.append(Ratio(f"times as fast as {keeping.name}", keeping, ours))


def _batched(images: Tensor, draws: list[Tensor], weak: WeakView, strong: StrongView) -> Callable[[], object]:
    """Return what the data module does with the unlabelled part of a batch."""
    source = RandomImages(10, size=images.shape[-1])
    data = SemiSupervisedData(source, weak=weak, strong=strong, num_labels=10, mean=MEAN, std=STD, seed=0)
    draws_weak = draws[0].to(images.device)

    def make() -> object:
        return data.normalise(weak(images, draws_weak)), data.normalise(strong(images, draws[1]))

    return make


def _one_by_one(images: list[Image], draws: list[list[list[float]]]) -> Callable[[], object]:
    """Return what a loader's worker does with the same images and draws."""
    pipeline = pil_pipeline.PilPipeline()
    rows = list(zip(images, *draws, strict=True))

    def make() -> object:
        pairs = [pipeline.pair(image, row_weak, row_strong) for image, row_weak, row_strong in rows]
        return [torch.stack([transforms.normalize(v, MEAN, STD) for v in view]) for view in zip(*pairs, strict=True)]

    return make


def _seconds_one_by_one(images: NDArray[np.uint8], draws: list[list[list[float]]]) -> float:
    """Return the same in a process that does not have the images yet; arrays travel there, tensors would be shared."""
    make = _one_by_one(pil_pipeline.to_images(torch.from_numpy(images)), draws)
    return timed(make, torch.device("cpu"))()


def _measure_operations(section: Section, images: Tensor, *, device: torch.device, rounds: int) -> None:
    """Measure each operation on the whole batch; the slowest of them, relative to PIL, becomes a ratio."""
    size = images.shape[-1]
    on_device, pictures = images.to(device), pil_pipeline.to_images(images)
    uniform = torch.rand(len(images), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs: list[tuple[Figure, Figure]] = []
    for name in RANDAUGMENT:
        if name == "identity":
            continue
        variants = {
            f"ours: {name}, {size}x{size}": timed(_ours(name, on_device, uniform), device),
            f"PIL: {name}, {size}x{size}": timed(_pil(name, pictures, uniform), torch.device("cpu")),
        }
        times = alternate(variants, rounds=rounds, warmups=1)
        ours, pil = (Figure.in_ms(label, times[label]) for label in variants)
        pairs.append((ours, pil))
        section.figures += [ours, pil]
    ours, pil = min(pairs, key=lambda pair: pair[1].value / pair[0].value)
    section.ratios.append(Ratio(f"worst operation against PIL ({ours.name.removeprefix('ours: ')})", pil, ours))


def _ours(name: str, images: Tensor, uniform: Tensor) -> Callable[[], object]:
    function, low, high = OPERATIONS[name]
    return lambda: function(images, low + (high - low) * uniform)


def _pil(name: str, pictures: list[Image], uniform: Tensor) -> Callable[[], object]:
    function, low, high = pil_pipeline.OPERATIONS[name]
    magnitudes = (low + (high - low) * uniform).tolist()
    return lambda: [function(picture, m) for picture, m in zip(pictures, magnitudes, strict=True)]
