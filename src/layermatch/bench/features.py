"""Keeping the features of a frozen network against the network alone."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from layermatch.augment import StrongView, WeakView
from layermatch.bench.images import RandomImages
from layermatch.bench.report import Figure, Ratio, Section
from layermatch.bench.timing import alternate, timed
from layermatch.data import SemiSupervisedData
from layermatch.data.feature_files import BLOCK, DTYPES
from layermatch.networks import Network
from layermatch.networks.pretrained import efficientnet_lite0
from layermatch.trainer import choose_device

__all__ = ["measure"]

#: The side that EfficientNet-Lite0's weights are for.
SIZE = 224


def measure(
    *,
    device: torch.device,
    quick: bool,
    make_network: Callable[..., Network] = efficientnet_lite0,
    size: int = SIZE,
) -> Section:
    """Measure what ``data.storage=features`` does for an image, and its network alone on as many images.

    To keep features is to read images from a mapped file, make their views, normalise them, send them through the
    network and write what comes out. The network alone is fed one normalised batch that is there already.

    Args:
        device: The device that computes.
        quick: Whether to take fewer images and repeat less.
        make_network: Makes the network, given ``num_classes``, ``weights`` and ``tune``. Its weights are random, which
            does not change the time.
        size: The side of the images.

    Raises:
        UserError: The network needs a package that is not installed.
    """
    num_images, rounds = (2 * BLOCK, 1) if quick else (4 * BLOCK, 3)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    channels_last = choose_device(accelerator=accelerator, precision="auto", channels_last="auto").channels_last
    layout = torch.channels_last if channels_last else torch.contiguous_format  # as a run has it
    network = make_network(num_classes=10, weights=None, tune="frozen").to(memory_format=layout)
    one = torch.randn(BLOCK, 3, size, size, device=device).to(memory_format=layout)
    keep = partial(_keep, network=network, device=device, channels_last=channels_last)
    with tempfile.TemporaryDirectory() as folder:
        source = RandomImages(num_images, size=size, folder=Path(folder))
        views = keep(source, dtype="float32")
        variants: dict[str, Callable[[], object]] = {}
        for dtype in DTYPES:
            variants[f"features kept, {dtype}, an image"] = partial(keep, source, dtype=dtype)
            variants[f"network alone, {dtype}, an image"] = partial(_forward, network, one, count=views, dtype=dtype)
        times = alternate({name: timed(work, device) for name, work in variants.items()}, rounds=rounds, warmups=1)
        del source, variants  # a mapped file cannot be removed everywhere
    section = Section("features", {"images": num_images, "views": views, "size": f"{size}x{size}", "block": BLOCK})
    figures = {name: Figure.in_ms(name, [each / views for each in seconds]) for name, seconds in times.items()}
    section.figures += figures.values()
    for dtype in DTYPES:
        of_kept, of_network = figures[f"features kept, {dtype}, an image"], figures[f"network alone, {dtype}, an image"]
        section.ratios.append(Ratio(f"keeping features / the network alone, {dtype}", of_kept, of_network, "<= 1.1"))
    first, second = (figures[f"features kept, {dtype}, an image"] for dtype in DTYPES)
    section.ratios.append(Ratio("images/s of bfloat16 against float32", first, second))
    return section


def _keep(source: RandomImages, *, network: Network, dtype: str, device: torch.device, channels_last: bool) -> int:
    """Compute all features of a run into an empty folder, throw them away, and return of how many views they were."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        data = SemiSupervisedData(
            source, weak=WeakView(), strong=StrongView(), num_labels=10, batch_size=1, mu=1, mean=(0.5,) * 3,
            std=(0.25,) * 3, seed=0, storage="features", feature_views=1, feature_dtype=dtype, cache_dir=folder,
            num_workers=0, channels_last=channels_last,
        )  # fmt: skip
        data.setup()
        data.keep_features(network, device=device)
        if data.features is None:
            raise RuntimeError("no features were computed")
        return data.features.computed


def _forward(network: Network, images: Tensor, *, count: int, dtype: str) -> None:
    """Send a block of images through the network as often as there are blocks in ``count`` images."""
    device = images.device
    network.eval().to(device)
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        for _ in range(count // BLOCK):
            network(images, heads=())
