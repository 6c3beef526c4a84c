"""What happens around training: measurements, predictions, warnings, progress and provenance."""

from layermatch.callbacks.clustering import FeatureClustering
from layermatch.callbacks.cost import CostMonitor
from layermatch.callbacks.guards import Guards
from layermatch.callbacks.predictions import PredictionTable, TestPredictions
from layermatch.callbacks.progress import ProgressDisplay
from layermatch.callbacks.provenance import CHECKPOINT_KEY, Provenance

__all__ = [
    "CHECKPOINT_KEY",
    "CostMonitor",
    "FeatureClustering",
    "Guards",
    "PredictionTable",
    "ProgressDisplay",
    "Provenance",
    "TestPredictions",
]
