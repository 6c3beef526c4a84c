"""What methods are made of: losses and where they reach, state that moves once a step."""

from layermatch.parts.distribution_alignment import DistributionAlignment, QueueMean, RunningFromFirst
from layermatch.parts.losses import LABELS, PSEUDO_LABELS, Losses, Term
from layermatch.parts.output_average import OutputAverage
from layermatch.parts.running import RunningMean
from layermatch.parts.step import Problem, Record, Step, StepState
from layermatch.parts.weight_average import WeightAverage

__all__ = [
    "LABELS",
    "PSEUDO_LABELS",
    "DistributionAlignment",
    "Losses",
    "OutputAverage",
    "Problem",
    "QueueMean",
    "Record",
    "RunningFromFirst",
    "RunningMean",
    "Step",
    "StepState",
    "Term",
    "WeightAverage",
]
