"""What the averaged weights predict for each test image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from layermatch.data.batch import EvalBatch
from layermatch.data.wording import name_text
from layermatch.distributed import all_gather_uneven_rows
from layermatch.files import replace_text
from layermatch.functional import hard_pseudo_labels, probabilities

__all__ = ["PredictionTable", "TestPredictions"]


class PredictionTable(NamedTuple):
    """Predictions of a test set, in its order, on the CPU.

    Attributes:
        indices: ``(N,)`` int64, positions in the test set.
        label: ``(N,)`` int64, true classes.
        prediction: ``(N,)`` int64, the most probable classes.
        confidence: ``(N,)`` float32 in ``[0, 1]``, their probabilities.
    """

    indices: Tensor
    label: Tensor
    prediction: Tensor
    confidence: Tensor

    def write_csv(self, path: Path, *, files: Sequence[str] | None = None) -> None:
        """Write ``predictions.csv``: a row for each image, classes as numbers.

        Args:
            path: The path of the file.
            files: The file of each image of the test set, for a column ``path``; None where images are no files.
        """
        header = ["index", "label", "prediction", "confidence"]
        columns = [self.indices.tolist(), self.label.tolist(), self.prediction.tolist()]
        columns.append([f"{confidence:.6f}" for confidence in self.confidence.tolist()])
        if files is not None:
            header.append("path")
            # A file's name need not be text, but one such name must not make the whole table unreadable.
            columns.append([name_text(files[index]) for index in columns[0]])
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(header)
        rows.writerows(zip(*columns, strict=True))
        replace_text(path, text.getvalue())

    def worst_mistakes(self, count: int) -> PredictionTable:
        """Return the wrong predictions with the highest confidence, the highest first.

        Args:
            count: The largest number of mistakes that is given.
        """
        wrong = (self.prediction != self.label).nonzero()[:, 0]
        order = self.confidence[wrong].argsort(descending=True, stable=True)[:count]
        return PredictionTable(*(column[wrong[order]] for column in self))


class TestPredictions(Callback):
    """Keeps what the averaged weights predict in a test; over all ranks each image is there once.

    Attributes:
        table: The table of the last test; None before it.
    """

    __test__ = False  # pytest: this is no test

    def __init__(self) -> None:
        self.table: PredictionTable | None = None
        self._seen: list[PredictionTable] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._seen = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: EvalBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of a batch."""
        prediction, confidence = hard_pseudo_labels(probabilities(outputs["ema"].logits))
        self._seen.append(PredictionTable(batch.indices, batch.label, prediction, confidence.float()))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the ranks' predictions together, in the order of the test set."""
        columns = [all_gather_uneven_rows(torch.cat(parts)).cpu() for parts in zip(*self._seen, strict=True)]
        order = columns[0].argsort()
        self.table = PredictionTable(*(column[order] for column in columns))
        self._seen = []
