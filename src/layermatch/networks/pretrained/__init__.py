"""Backbones of timm and torchvision, with pretrained weights or without, of which all or only a part learns."""

from layermatch.networks.pretrained.backbone import Wanted
from layermatch.networks.pretrained.from_timm import timm_backbone
from layermatch.networks.pretrained.from_torchvision import torchvision_backbone
from layermatch.networks.pretrained.lite0 import efficientnet_lite0
from layermatch.networks.pretrained.lookup import find_weights, wanted_input
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
