"""The methods: each one file that reads like its paper's algorithm box."""

from layermatch.methods.base import Method, RoutedMethod
from layermatch.methods.mean_teacher import MeanTeacher
from layermatch.methods.mixmatch import MixMatch
from layermatch.methods.pi_model import PiModel
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.methods.remixmatch import ReMixMatch
from layermatch.methods.supervised import Supervised
from layermatch.methods.vat import VAT

__all__ = [
    "VAT",
    "MeanTeacher",
    "Method",
    "MixMatch",
    "PiModel",
    "PseudoLabelling",
    "ReMixMatch",
    "RoutedMethod",
    "Supervised",
]
