"""Which unlabelled samples count, with what target and weight: a file for each policy, its equations in functional."""

from layermatch.policies.aligned import Aligned, aligned
from layermatch.policies.base import Policy, Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold
from layermatch.policies.noisy_threshold import NoisyThreshold
from layermatch.policies.soft_threshold import SoftThreshold

__all__ = [
    "Aligned",
    "FixedThreshold",
    "NoisyThreshold",
    "Policy",
    "Predictions",
    "PseudoLabels",
    "SoftThreshold",
    "aligned",
]
