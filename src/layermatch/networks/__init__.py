"""Networks that return features and the outputs of heads, with the boundary between them explicit."""

from layermatch.networks.batch_statistics import BatchStatistics
from layermatch.networks.builders import resnet50, wide_resnet, wrn_28_2, wrn_28_8, wrn_37_2, wrn_small
from layermatch.networks.network import CLASSIFIER, EXTRACTOR, Network, Output, linear_float32, linear_head
from layermatch.networks.wide_resnet import WideResNet

__all__ = [
    "CLASSIFIER",
    "EXTRACTOR",
    "BatchStatistics",
    "Network",
    "Output",
    "WideResNet",
    "linear_float32",
    "linear_head",
    "resnet50",
    "wide_resnet",
    "wrn_28_2",
    "wrn_28_8",
    "wrn_37_2",
    "wrn_small",
]
