"""Which unlabelled samples count, with what target and weight: a file for each policy, its equations in functional."""

from layermatch.policies.aligned import Aligned, aligned
from layermatch.policies.averaged_network import AveragedNetwork
from layermatch.policies.averaged_outputs import AveragedOutputs
from layermatch.policies.base import Policy, Predictions, PseudoLabels
from layermatch.policies.curriculum_thresholds import CurriculumThresholds
from layermatch.policies.debiased import DebiasedThreshold
from layermatch.policies.fixed_threshold import FixedThreshold
from layermatch.policies.gaussian_weight import GaussianWeight
from layermatch.policies.loss_threshold import LossThreshold
from layermatch.policies.noisy_threshold import NoisyThreshold
from layermatch.policies.progressive_alignment import ProgressiveAlignment
from layermatch.policies.refixmatch import ReFixMatch
from layermatch.policies.relative_threshold import RelativeThreshold
from layermatch.policies.self_adaptive import SelfAdaptiveThreshold
from layermatch.policies.sharpened_targets import SharpenedTargets
from layermatch.policies.soft_threshold import SoftThreshold

__all__ = [
    "Aligned",
    "AveragedNetwork",
    "AveragedOutputs",
    "CurriculumThresholds",
    "DebiasedThreshold",
    "FixedThreshold",
    "GaussianWeight",
    "LossThreshold",
    "NoisyThreshold",
    "Policy",
    "Predictions",
    "ProgressiveAlignment",
    "PseudoLabels",
    "ReFixMatch",
    "RelativeThreshold",
    "SelfAdaptiveThreshold",
    "SharpenedTargets",
    "SoftThreshold",
    "aligned",
]
