"""What methods are made of: losses and where they reach, state that moves once a step, pseudo-label policies."""

from layermatch.parts.fixed_threshold import FixedThreshold
from layermatch.parts.losses import LABELS, PSEUDO_LABELS, Losses, Term
from layermatch.parts.noisy_threshold import NoisyThreshold
from layermatch.parts.policy import Policy, PseudoLabels
from layermatch.parts.step import Problem, Record, Step, StepState
from layermatch.parts.weight_average import WeightAverage

__all__ = [
    "LABELS",
    "PSEUDO_LABELS",
    "FixedThreshold",
    "Losses",
    "NoisyThreshold",
    "Policy",
    "Problem",
    "PseudoLabels",
    "Record",
    "Step",
    "StepState",
    "Term",
    "WeightAverage",
]
