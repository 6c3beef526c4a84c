"""What a run is about to do, in numbers."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from rich import filesize

from layermatch.build import RunParts
from layermatch.runs.quantities import duration
from layermatch.settings import Settings

__all__ = ["plan_rows"]

#: The sizes of so many classes are all written out.
MOST_SIZES = 10


def plan_rows(settings: Settings, parts: RunParts, trainer: Trainer) -> dict[str, str]:
    """Return the rows of the run plan.

    Args:
        settings: The composed configuration.
        parts: The data and the algorithm.
        trainer: It gives the number of processes and steps.

    Returns:
        Name to text.
    """
    return {
        **_images(settings, parts),
        **_batches(settings, parts, trainer),
        **parts.algorithm.network.notes,
        **_normalisation(settings, parts),
        **_parameters(parts),
        "layer gradients": _layer_gradients(parts),
        "device": _device(parts, trainer),
        **_exchange(settings, trainer),
    }


def _images(settings: Settings, parts: RunParts) -> dict[str, str]:
    data = parts.data
    channels, height, width = data.image_shape
    num_val = 0 if data.validation is None else len(data.validation)
    held_out = "" if settings.data.split else f", held out of the {_val_source(settings)}"
    if data.content.validation is not None:
        held_out = ", the data set's own"
    part = (
        ""
        if data.selection.pool_limit is None
        else f" (data.pool_limit={data.selection.pool_limit}, drawn with seed {data.split.seed})"
    )
    pool = f"{len(data.unlabelled):,}{part}, the labelled ones among them"
    return {
        "images": f"{height}x{width}, {channels} channel{'s' * (channels > 1)}, {len(data.classes)} classes",
        "labelled": f"{len(data.labelled):,}",
        "unlabelled": pool if parts.algorithm.uses_unlabelled else "none used",
        **_long_tail(parts),
        **_label_noise(parts),
        **_leaks(parts),
        "validation": f"{num_val:,}{held_out}" if num_val else "none",
        "kept": f"data.storage={settings.data.storage}",
        **_features(parts),
        "test": f"{len(data.test):,}, never used for selection" if data.test is not None else "none",
        **data.content.notes,
    }


def _features(parts: RunParts) -> dict[str, str]:
    """Return how many features are learnt from, and what they took, where they are computed once."""
    store = parts.data.features
    if store is None:
        return {}
    views, dtype = store.options.views, store.options.dtype
    took = f"{store.computed:,} computed in {duration(store.seconds)}" if store.computed else "all there already"
    size = filesize.decimal(store.num_bytes)
    return {
        "features": f"{store.num_passes:,} views of images, {views} of a kind and image, {dtype}: {size}, {took}",
        "features in": str(store.folder),
    }


def _long_tail(parts: RunParts) -> dict[str, str]:
    """Return the sizes of the classes, where they were cut to a long tail."""
    data = parts.data
    if data.selection.labelling.imbalance is None and not data.split.unlabelled:
        return {}
    rows = f"labelled {_sizes(data.labelled.labels, len(data.classes))}"
    if data.split.unlabelled and parts.algorithm.uses_unlabelled:
        # In the pool, the class of a labelled image counts as unknown.
        others = data.unlabelled.labels[data.unlabelled.labels >= 0]
        rows += f"; unlabelled beside them {_sizes(others, len(data.classes))}"
    return {"images of a class": rows}


def _label_noise(parts: RunParts) -> dict[str, str]:
    """Return how many labels are wrong, where some are."""
    data = parts.data
    if not data.selection.label_noise:
        return {}
    right = data.content.labelled.labels[list(data.split.labelled)]
    wrong = int((data.labelled.labels != right).sum())
    return {"wrong labels": f"{wrong:,} of {len(right):,} (data.label_noise={data.selection.label_noise:g})"}


def _leaks(parts: RunParts) -> dict[str, str]:
    """Say which training images are evaluated as well."""
    found = parts.data.leaks_found
    if parts.data.selection.leaks == "report" and parts.data.is_streamed:
        return {"leaks": "not looked for, as images are streamed"}
    if found is None or not found.evaluated:
        return {}
    return {"leaks": found.text(uses_unlabelled=parts.algorithm.uses_unlabelled)}


def _sizes(labels: NDArray[np.int64], num_classes: int) -> str:
    sizes = [f"{size:,}" for size in np.bincount(labels, minlength=num_classes)]
    shown = sizes if len(sizes) <= MOST_SIZES else [*sizes[:2], "...", sizes[-1]]
    return " ".join(shown)


def _val_source(settings: Settings) -> str:
    if settings.data.val_from == "labelled":
        return "labelled images"
    return "training pool (their labels are used for evaluation only)"


def _batches(settings: Settings, parts: RunParts, trainer: Trainer) -> dict[str, str]:
    data, accumulate = parts.data, parts.algorithm.accumulate
    world = trainer.world_size
    labelled = data.batch_on_each(world)
    unlabelled = labelled * data.mu if parts.algorithm.uses_unlabelled else 0
    factor = world * accumulate
    global_text = f"{labelled * factor:,} labelled + {unlabelled * factor:,} unlabelled"
    evaluations = f", an evaluation every {settings.eval_every:,}" if data.validation is not None else ""
    return {
        "steps": f"{trainer.max_steps:,}{evaluations}",
        "batch per device": f"{labelled:,} labelled + {unlabelled:,} unlabelled",
        "batch per step": f"{global_text} ({world} device{'s' * (world > 1)} x {accumulate} accumulated)"
        + (f", data.batch_of={data.batch_of}" if world > 1 else ""),
        **({} if data.ramp.is_empty else {"ramp": data.ramp.text()}),
    }


def _parameters(parts: RunParts) -> dict[str, str]:
    groups = parts.algorithm.network.parameter_groups()
    rows = {}
    for name, named in groups.items():
        total = sum(parameter.numel() for _, parameter in named)
        learning = sum(parameter.numel() for _, parameter in named if parameter.requires_grad)
        rows[f"parameters, {name}"] = f"{total:,}" if learning == total else f"{total:,}, of which {learning:,} learn"
    return rows


def _normalisation(settings: Settings, parts: RunParts) -> dict[str, str]:
    """Say what images are normalised by, where pretrained weights have a wish."""
    network, data = parts.algorithm.network, parts.data
    if network.mean is None:
        return {}
    numbers = [" ".join(f"{number:.3g}" for number in each) for each in (data.mean, data.std)]
    whose = (
        "of the weights" if settings.data.is_normalised_by_weights else "of data.mean and data.std, not of the weights"
    )
    return {"normalised by": f"mean {numbers[0]}, deviation {numbers[1]}, {whose}"}


def _layer_gradients(parts: RunParts) -> str:
    every = parts.algorithm.layer_gradients_every
    if not every:
        return "not measured"
    # Two backward passes take as long as 1.1 to 1.3 steps.
    return f"measured every {every:,} steps, about {1.2 / every:.1%} more time"


def _exchange(settings: Settings, trainer: Trainer) -> dict[str, str]:
    """Return how the processes exchange gradients, where there are several."""
    if trainer.world_size == 1:
        return {}
    kind = settings.trainer.exchange
    return {"gradients": f"exchanged as they are computed{', rounded to bfloat16' * (kind == 'bf16')}"}


def _device(parts: RunParts, trainer: Trainer) -> str:
    device = parts.device
    layout = ", channels last" if device.channels_last else ""
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' * (count > 1)}" if device.accelerator == "cpu" else ""
    return f"{trainer.world_size} x {device.name}{threads}, {device.precision}{layout}"
