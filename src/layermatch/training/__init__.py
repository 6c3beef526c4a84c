"""The LightningModule that every method runs in, and what it is made of."""

from layermatch.training.evaluation import Evaluation
from layermatch.training.guard import StepGuard
from layermatch.training.log_lines import LogLines
from layermatch.training.meter import IntervalMeter
from layermatch.training.module import OptimizerFactory, Schedule, SemiSupervisedModule, problem_of

__all__ = [
    "Evaluation",
    "IntervalMeter",
    "LogLines",
    "OptimizerFactory",
    "Schedule",
    "SemiSupervisedModule",
    "StepGuard",
    "problem_of",
]
