"""Batches of kept features, in the place of batches of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from layermatch.data.batch import Batch, EvalBatch, Samples, Unlabelled, Views
from layermatch.data.feature_files import as_features
from layermatch.data.features import FeatureStore
from layermatch.data.images import Images
from layermatch.data.steps import EvalSteps, TrainingSteps, ViewedSet

__all__ = ["FeatureEvalSteps", "FeatureSteps"]


class FeatureSteps(Dataset[Batch]):
    """The batches of one rank as features: which view of an image a step takes is a function of (seed, step, rank).

    Views of one kind that a step takes of one image differ, as far as there are enough.

    Args:
        steps: The positions of the images; each view draws one number, which chooses it.
        store: The features.
        views: The views that the method asks for.
    """

    def __init__(self, steps: TrainingSteps, store: FeatureStore, views: Views) -> None:
        self.steps = steps
        self.views = views
        self.dtype = store.options.dtype
        self._labelled = store.of_kinds(steps.labelled.images, views.labelled)
        self._unlabelled = {} if steps.unlabelled is None else store.of_kinds(steps.unlabelled.images, views.unlabelled)

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of one step of this rank."""
        labelled, unlabelled, _ = self.steps[step]
        views = self._pick(labelled, self.views.labelled, self._labelled)
        samples = Samples(views, labelled.label, labelled.indices)
        if unlabelled is None:
            return Batch(samples, None)
        views = self._pick(unlabelled, self.views.unlabelled, self._unlabelled)
        return Batch(samples, Unlabelled(views, unlabelled.indices, unlabelled.label))

    def _pick(
        self, part: ViewedSet, wanted: Mapping[str, str], kept: Mapping[str, Sequence[Images]]
    ) -> dict[str, Tensor]:
        first: dict[str, NDArray[np.int64]] = {}
        seen: Counter[str] = Counter()
        found = {}
        for (name, kind), draws in zip(wanted.items(), part.draws, strict=True):
            count = len(kept[kind])
            chosen = (draws[:, 0].numpy().astype(np.float64) * count).astype(np.int64)
            number = (first.setdefault(kind, chosen) + seen[kind]) % count
            seen[kind] += 1
            found[name] = self._rows(kept[kind], number, part.indices.numpy())
        return found

    def _rows(self, views: Sequence[Images], number: NDArray[np.int64], indices: NDArray[np.int64]) -> Tensor:
        rows = np.empty((len(indices), *views[0].shape), np.uint8)
        for view in np.unique(number):
            rows[number == view] = views[view].read(indices[number == view])
        return as_features(torch.from_numpy(rows), self.dtype)


class FeatureEvalSteps(Dataset[EvalBatch]):
    """The evaluation batches of one rank as features; see :class:`~layermatch.data.steps.EvalSteps`.

    Args:
        steps: The batches, of a set whose images are rows of features.
        dtype: One of :data:`~layermatch.data.feature_files.DTYPES`.
    """

    def __init__(self, steps: EvalSteps, dtype: str) -> None:
        self.steps = steps
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, batch: int) -> EvalBatch:
        """Return one batch."""
        rows, label, indices = self.steps[batch]
        return EvalBatch(as_features(rows, self.dtype), label, indices)
