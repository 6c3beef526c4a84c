"""Accuracy of the live and the averaged weights, side by side."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import cast

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from layermatch.functional import macro_accuracy
from layermatch.metrics import VAL_MEDIAN, VAL_MEDIAN_EMA, accuracies, macro_accuracies

__all__ = ["Evaluation"]

#: FixMatch reports the median of its last 20 checkpoints.
NUM_EVALUATIONS = 20


class Evaluation(nn.Module):
    """Counts what is right on the validation and the test set.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        names = [f"{split}_{weights}" for split in ("val", "test") for weights in accuracies(split)]
        # Sources have checked the labels; torchmetrics would wait for the device at each batch to do it again.
        self.accuracies = nn.ModuleDict(
            {name: MulticlassAccuracy(num_classes, average="micro", validate_args=False) for name in names}
        )
        self.confusions = nn.ModuleDict(
            {name: MulticlassConfusionMatrix(num_classes, validate_args=False) for name in names}
        )
        #: ``(K, K)``, true class by prediction, of the EMA weights on the test set; after a test.
        self.test_confusion: Tensor | None = None
        #: Split -> key of ``results.json`` -> mean over the classes of their accuracies at the last evaluation.
        self.macro: dict[str, dict[str, float]] = {}
        #: (live, EMA) accuracy of the last evaluations during training.
        self.evaluations: deque[tuple[float, float]] = deque(maxlen=NUM_EVALUATIONS)

    def see(self, split: str, weights: str, logits: Tensor, label: Tensor) -> None:
        """Count one batch.

        Args:
            split: ``val`` or ``test``.
            weights: ``live`` or ``ema``.
            logits: ``(B, K)``.
            label: ``(B,)`` int64.
        """
        if not len(label):  # a rank beyond a small set: torchmetrics takes no empty batch
            return
        self._accuracy(split, weights).update(logits, label)
        self._confusion(split, weights).update(logits, label)

    def conclude(self, split: str, *, in_training: bool) -> dict[str, float]:
        """Return the accuracies of the batches since the last call, over all ranks.

        Args:
            split: ``val`` or ``test``.
            in_training: Whether they belong to the evaluations that a median is taken of.
        """
        values = {}
        for weights, logged in accuracies(split).items():
            metric = self._accuracy(split, weights)
            values[logged.name] = float(metric.compute())
            metric.reset()
        if in_training:
            live, averaged = values.values()
            self.evaluations.append((live, averaged))
        confusions = {weights: self._confusion(split, weights).compute().cpu() for weights in accuracies(split)}
        self.macro[split] = {
            metric.path[-1]: float(macro_accuracy(confusions[weights]))
            for weights, metric in macro_accuracies(split).items()
        }
        if split == "test":
            self.test_confusion = confusions["ema"]
        self._forget_confusions(split)
        return values

    def start(self, split: str) -> None:
        """Forget the batches of an evaluation that was interrupted.

        Args:
            split: ``val`` or ``test``.
        """
        for weights in accuracies(split):
            self._accuracy(split, weights).reset()
        self._forget_confusions(split)

    def median(self) -> dict[str, float]:
        """Take the median accuracy of the last 20 evaluations in training, as FixMatch does; empty without any."""
        if not self.evaluations:
            return {}
        live, averaged = (median(values) for values in zip(*self.evaluations, strict=True))
        medians = {VAL_MEDIAN.path[-1]: live, VAL_MEDIAN_EMA.path[-1]: averaged}
        return medians | {"num_evaluations": len(self.evaluations)}

    def _accuracy(self, split: str, weights: str) -> MulticlassAccuracy:
        return cast("MulticlassAccuracy", self.accuracies[f"{split}_{weights}"])

    def _confusion(self, split: str, weights: str) -> MulticlassConfusionMatrix:
        return cast("MulticlassConfusionMatrix", self.confusions[f"{split}_{weights}"])

    def _forget_confusions(self, split: str) -> None:
        for weights in accuracies(split):
            self._confusion(split, weights).reset()
