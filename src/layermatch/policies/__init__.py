"""Which unlabelled samples count, with what target and weight: a file for each policy, its equations in functional."""

from layermatch.policies.averaged_network import AveragedNetwork
from layermatch.policies.averaged_outputs import AveragedOutputs
from layermatch.policies.base import Policy, Predictions, PseudoLabels
from layermatch.policies.curriculum_thresholds import CurriculumThresholds
from layermatch.policies.fixed_threshold import FixedThreshold
from layermatch.policies.loss_threshold import LossThreshold
from layermatch.policies.noisy_threshold import NoisyThreshold
from layermatch.policies.sharpened_targets import SharpenedTargets

__all__ = [
    "AveragedNetwork",
    "AveragedOutputs",
    "CurriculumThresholds",
    "FixedThreshold",
    "LossThreshold",
    "NoisyThreshold",
    "Policy",
    "Predictions",
    "PseudoLabels",
    "SharpenedTargets",
]
