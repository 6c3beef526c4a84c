"""The methods: each one file that reads like its paper's algorithm box."""

from layermatch.methods.base import Method, RoutedMethod
from layermatch.methods.mean_teacher import MeanTeacher
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.methods.r2d2 import R2D2
from layermatch.methods.supervised import Supervised

__all__ = ["R2D2", "MeanTeacher", "Method", "PseudoLabelling", "RoutedMethod", "Supervised"]
