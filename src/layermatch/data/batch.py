"""The batches that reach an algorithm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch", "EvalBatch", "LabelledBatch", "UnlabelledBatch"]


class LabelledBatch(NamedTuple):
    """Weak views of labelled images.

    Attributes:
        image: ``(B, C, H, W)`` float32, normalised.
        label: ``(B,)`` int64.
        indices: ``(B,)`` int64, positions in the labelled set.
    """

    image: Tensor
    label: Tensor
    indices: Tensor


class UnlabelledBatch(NamedTuple):
    """Two views of each unlabelled image.

    Attributes:
        weak: ``(N, C, H, W)`` float32, normalised.
        strong: ``(N, C, H, W)`` float32, normalised.
        indices: ``(N,)`` int64, positions in the unlabelled pool.
        hidden_label: ``(N,)`` int64, the true class where the data set knows it and -1 elsewhere. For diagnostics
            only: no loss may read it.
    """

    weak: Tensor
    strong: Tensor
    indices: Tensor
    hidden_label: Tensor


class Batch(NamedTuple):
    """What one training step gets.

    Attributes:
        labelled: ``B`` labelled images.
        unlabelled: ``N = mu B`` unlabelled images; None for algorithms that use none.
    """

    labelled: LabelledBatch
    unlabelled: UnlabelledBatch | None


class EvalBatch(NamedTuple):
    """Images of the validation or test set, not augmented.

    Attributes:
        image: ``(B, C, H, W)`` float32, normalised.
        label: ``(B,)`` int64.
        indices: ``(B,)`` int64, positions in the set.
    """

    image: Tensor
    label: Tensor
    indices: Tensor
