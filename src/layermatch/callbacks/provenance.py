"""What a checkpoint says about the run that wrote it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from layermatch import __version__
from layermatch.data import Split

__all__ = ["CHECKPOINT_KEY", "Provenance"]

#: The key under which a checkpoint holds what is added.
CHECKPOINT_KEY = "layermatch"


class Provenance(Callback):
    """Adds the configuration, the classes and the labelled images to every checkpoint, as plain containers.

    Args:
        settings: The composed configuration.
        classes: Names of the classes.
        split: The labelled and the held-out images.
    """

    def __init__(self, *, settings: dict[str, Any], classes: tuple[str, ...], split: Split) -> None:
        self.content = {
            "version": __version__,
            "settings": settings,
            "classes": list(classes),
            "split": split.plain(),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add it."""
        checkpoint[CHECKPOINT_KEY] = self.content
