"""What methods are made of: losses and where they reach, state that moves once a step."""

from layermatch.parts.class_queue import ClassQueue, PeriodicShares
from layermatch.parts.distribution_alignment import DistributionAlignment, QueueMean, RunningFromFirst
from layermatch.parts.label_table import LabelTable, fixed_logits
from layermatch.parts.latest_labels import LatestLabels
from layermatch.parts.losses import LABELS, PSEUDO_LABELS, Losses, Term
from layermatch.parts.memory_bank import Bank, LabelledBank, MemoryBank
from layermatch.parts.output_average import OutputAverage
from layermatch.parts.pool import OpenTeacher, Pool, Teacher
from layermatch.parts.running import RunningMean
from layermatch.parts.stages import Stage
from layermatch.parts.step import Problem, Record, Step, StepState
from layermatch.parts.warm_up import WarmUp
from layermatch.parts.weight_average import WeightAverage

__all__ = [
    "LABELS",
    "PSEUDO_LABELS",
    "Bank",
    "ClassQueue",
    "DistributionAlignment",
    "LabelTable",
    "LabelledBank",
    "LatestLabels",
    "Losses",
    "MemoryBank",
    "OpenTeacher",
    "OutputAverage",
    "PeriodicShares",
    "Pool",
    "Problem",
    "QueueMean",
    "Record",
    "RunningFromFirst",
    "RunningMean",
    "Stage",
    "Step",
    "StepState",
    "Teacher",
    "Term",
    "WarmUp",
    "WeightAverage",
    "fixed_logits",
]
