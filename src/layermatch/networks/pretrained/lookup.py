"""What a backbone"s weights want, and where they are, before there is a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from layermatch.networks.pretrained.backbone import CACHE, HUB, PACKAGE, Wanted
from layermatch.networks.pretrained.from_timm import (
    find_timm_weights,
    timm_backbone,
    timm_cfg,
    wanted_of_cfg,
)
from layermatch.networks.pretrained.from_torchvision import (
    torchvision_backbone,
    torchvision_enum,
    url_of_enum,
    wanted_of_enum,
)
from layermatch.networks.pretrained.lite0 import LITE0, efficientnet_lite0, find_lite0_weights
from layermatch.networks.pretrained.weight_files import in_torch_hub
from layermatch.paths import expand, is_file

__all__ = ["find_weights", "wanted_input"]


def wanted_input(target: Callable[..., Any], options: Mapping[str, Any]) -> Wanted | None:
    """Return what the weights of a backbone want images to be, before there is a network.

    Args:
        target: One of the functions above; any other has no weights.
        options: Its arguments.

    Returns:
        The normalisation and the size; None without weights.

    Raises:
        UserError: There is no such backbone.
    """
    weights = options.get("weights", PACKAGE if target is efficientnet_lite0 else None)
    if weights is None:
        return None
    if target is timm_backbone:
        return wanted_of_cfg(timm_cfg(options.get("name"))[1])
    if target is efficientnet_lite0:
        return wanted_of_cfg(timm_cfg(LITE0)[1])
    if target is torchvision_backbone:
        return wanted_of_enum(torchvision_enum(options.get("name")), weights)
    return None


def find_weights(target: Callable[..., Any], options: Mapping[str, Any]) -> Path | None:
    """Return the file that a backbone's weights are in, without downloading any; None where it is not here.

    Args:
        target: One of the functions above.
        options: Its arguments.

    Raises:
        UserError: There is no such backbone, or its package is missing.
    """
    weights = options.get("weights", PACKAGE if target is efficientnet_lite0 else None)
    if weights is None:
        return None
    if target is efficientnet_lite0 and weights == PACKAGE:
        return find_lite0_weights()
    if target is timm_backbone and weights in (HUB, CACHE):
        return find_timm_weights(timm_cfg(options.get("name"))[1])
    if target is torchvision_backbone:
        enum = torchvision_enum(options.get("name"))
        if weights in (HUB, CACHE, *enum.__members__):
            return in_torch_hub(url_of_enum(enum, weights))
    file = expand("weights", weights, "a file of weights")
    return file if is_file(file) else None
