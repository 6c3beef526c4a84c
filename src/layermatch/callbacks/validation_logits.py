"""What both weights make of every validation image."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from layermatch.data.batch import EvalBatch

__all__ = ["ValidationLogits"]


class ValidationLogits(Callback):
    """Keeps logits and labels of an evaluation on the validation images of one process.

    Attributes:
        label: The labels of each batch, ``(B,)`` int64.
        of: The logits of ``ema`` and of ``live`` of each batch, ``(B, K)`` float32, on the CPU.
    """

    def __init__(self) -> None:
        self.label: list[Tensor] = []
        self.of: dict[str, list[Tensor]] = {"ema": [], "live": []}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep those of a batch."""
        self.label.append(batch.label.cpu())
        for weights, logits in self.of.items():
            logits.append(outputs[weights].logits.float().cpu())
