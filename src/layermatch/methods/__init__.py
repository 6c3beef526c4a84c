"""The methods: each one file that reads like its paper's algorithm box."""

from layermatch.methods.base import Method, RoutedMethod
from layermatch.methods.mean_teacher import MeanTeacher
from layermatch.methods.pseudo_label import PseudoLabel
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.methods.supervised import Supervised
from layermatch.methods.uda import UDA

__all__ = ["UDA", "MeanTeacher", "Method", "PseudoLabel", "PseudoLabelling", "RoutedMethod", "Supervised"]
