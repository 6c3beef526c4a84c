"""What happens around training: progress and provenance."""

from layermatch.callbacks.progress import ProgressDisplay
from layermatch.callbacks.provenance import CHECKPOINT_KEY, Provenance

__all__ = ["CHECKPOINT_KEY", "ProgressDisplay", "Provenance"]
