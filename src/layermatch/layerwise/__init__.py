"""Rules: which layers learn from which loss."""

from layermatch.layerwise.avg_clustering import AvgClustering, EmaCentroids, EmaClassifier, EmaOutputs, EmaTeacher
from layermatch.layerwise.layermatch import LayerMatch
from layermatch.layerwise.rule import ForwardPass, LayerLosses, LayerwiseRule, Uniform

__all__ = [
    "AvgClustering",
    "EmaCentroids",
    "EmaClassifier",
    "EmaOutputs",
    "EmaTeacher",
    "ForwardPass",
    "LayerLosses",
    "LayerMatch",
    "LayerwiseRule",
    "Uniform",
]
