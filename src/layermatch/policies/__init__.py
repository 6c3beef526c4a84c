"""Which unlabelled samples count, with what target and weight: a file for each policy, its equations in functional."""

from layermatch.policies.aligned import Aligned, aligned
from layermatch.policies.averaged_network import AveragedNetwork
from layermatch.policies.averaged_outputs import AveragedOutputs
from layermatch.policies.base import Policy, Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold
from layermatch.policies.noisy_threshold import NoisyThreshold

__all__ = [
    "Aligned",
    "AveragedNetwork",
    "AveragedOutputs",
    "FixedThreshold",
    "NoisyThreshold",
    "Policy",
    "Predictions",
    "PseudoLabels",
    "aligned",
]
