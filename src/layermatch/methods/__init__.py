"""The methods: each one file that reads like its paper's algorithm box."""

from layermatch.methods.base import Method, RoutedMethod
from layermatch.methods.comatch import CoMatch
from layermatch.methods.crmatch import CRMatch
from layermatch.methods.mean_teacher import MeanTeacher
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.methods.shrinkmatch import ShrinkMatch
from layermatch.methods.simmatch import SimMatch
from layermatch.methods.supervised import Supervised

__all__ = [
    "CRMatch",
    "CoMatch",
    "MeanTeacher",
    "Method",
    "PseudoLabelling",
    "RoutedMethod",
    "ShrinkMatch",
    "SimMatch",
    "Supervised",
]
