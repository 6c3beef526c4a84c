"""LightningModules: one step by manual optimization, and what each algorithm adds."""

from layermatch.algorithms.base import Algorithm
from layermatch.algorithms.pseudo_labelling import PseudoLabelling
from layermatch.algorithms.supervised import Supervised

__all__ = ["Algorithm", "PseudoLabelling", "Supervised"]
