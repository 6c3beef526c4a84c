"""What happens around training."""

from layermatch.callbacks.checkpointing import CheckpointWriter
from layermatch.callbacks.progress import ProgressDisplay
from layermatch.callbacks.provenance import CHECKPOINT_KEY, Provenance
from layermatch.callbacks.stop_signals import StopSignals

__all__ = ["CHECKPOINT_KEY", "CheckpointWriter", "ProgressDisplay", "Provenance", "StopSignals"]
