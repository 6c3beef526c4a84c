"""Which layers learn from which loss: rules for pseudo-labelling methods, and gradient rules for any method."""

from layermatch.layerwise.avg_clustering import AvgClustering, EmaCentroids, EmaClassifier, EmaOutputs, EmaTeacher
from layermatch.layerwise.gradient_rule import AgreeingGradients, GradientRule, ScaledGradients
from layermatch.layerwise.rule import LayerwiseRule, Uniform
from layermatch.layerwise.separate_losses import SeparateLosses

__all__ = [
    "AgreeingGradients",
    "AvgClustering",
    "EmaCentroids",
    "EmaClassifier",
    "EmaOutputs",
    "EmaTeacher",
    "GradientRule",
    "LayerwiseRule",
    "ScaledGradients",
    "SeparateLosses",
    "Uniform",
]
