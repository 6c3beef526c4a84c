"""What methods are made of: losses and where they reach, state that moves once a step."""

from layermatch.parts.distribution_alignment import DistributionAlignment, QueueMean, RunningFromFirst
from layermatch.parts.losses import LABELS, PSEUDO_LABELS, Losses, Term
from layermatch.parts.memory_bank import Bank, LabelledBank, MemoryBank
from layermatch.parts.running import RunningMean
from layermatch.parts.step import Problem, Record, Step, StepState
from layermatch.parts.weight_average import WeightAverage

__all__ = [
    "LABELS",
    "PSEUDO_LABELS",
    "Bank",
    "DistributionAlignment",
    "LabelledBank",
    "Losses",
    "MemoryBank",
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
