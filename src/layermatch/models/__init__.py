"""Networks that return (features, logits), with the extractor / classifier boundary explicit."""

from layermatch.models.batch_statistics import BatchStatistics
from layermatch.models.builders import resnet50, wide_resnet, wrn_28_2, wrn_28_8, wrn_37_2, wrn_small
from layermatch.models.network import Network, NetworkOutput, linear_float32
from layermatch.models.wide_resnet import WideResNet

__all__ = [
    "BatchStatistics",
    "Network",
    "NetworkOutput",
    "WideResNet",
    "linear_float32",
    "resnet50",
    "wide_resnet",
    "wrn_28_2",
    "wrn_28_8",
    "wrn_37_2",
    "wrn_small",
]
