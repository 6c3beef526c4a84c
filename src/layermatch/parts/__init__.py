"""What methods are made of: losses and where they reach, state that moves once a step."""

from layermatch.parts.losses import LABELS, PSEUDO_LABELS, Losses, Term
from layermatch.parts.memory_bank import Bank, LabelledBank, MemoryBank
from layermatch.parts.running import RunningMean
from layermatch.parts.step import Problem, Record, Step, StepState
from layermatch.parts.weight_average import WeightAverage

__all__ = [
    "LABELS",
    "PSEUDO_LABELS",
    "Bank",
    "LabelledBank",
    "Losses",
    "MemoryBank",
    "Problem",
    "Record",
    "RunningMean",
    "Step",
    "StepState",
    "Term",
    "WeightAverage",
]
