"""What happens around training: measurements, predictions, warnings, progress, checkpoints and stopping."""

from layermatch.callbacks.checkpointing import CheckpointWriter
from layermatch.callbacks.clustering import FeatureClustering
from layermatch.callbacks.cost import CostMonitor
from layermatch.callbacks.guards import Guards
from layermatch.callbacks.predictions import PredictionTable, TestPredictions
from layermatch.callbacks.progress import ProgressDisplay
from layermatch.callbacks.provenance import Provenance
from layermatch.callbacks.stop_signals import StopSignals

__all__ = [
    "CheckpointWriter",
    "CostMonitor",
    "FeatureClustering",
    "Guards",
    "PredictionTable",
    "ProgressDisplay",
    "Provenance",
    "StopSignals",
    "TestPredictions",
]
