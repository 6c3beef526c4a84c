"""Backbones of timm and torchvision, with pretrained weights or without, of which all or only a part learns."""

from layermatch.networks.pretrained.builders import (
    Wanted,
    efficientnet_lite0,
    find_weights,
    timm_backbone,
    torchvision_backbone,
    wanted_input,
)
from layermatch.networks.pretrained.network import BASE_DIGEST, PretrainedNetwork

__all__ = [
    "BASE_DIGEST",
    "PretrainedNetwork",
    "Wanted",
    "efficientnet_lite0",
    "find_weights",
    "timm_backbone",
    "torchvision_backbone",
    "wanted_input",
]
