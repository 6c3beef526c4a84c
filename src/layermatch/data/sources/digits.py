"""The 8x8 digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import ArrayImages, take
from layermatch.data.sources.base import ImageSet, SourceData

__all__ = ["Digits"]

_NUM_TEST = 360
# Decides which images are the test set. A constant, never the run's seed: all runs must be tested on the same
# images.
_TEST_SEED = 1797


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Handwritten digits: 1,797 grey images of 8x8 in 10 classes; nothing to download.

    Origin: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), UCI
    Machine Learning Repository, CC BY 4.0, as shipped by scikit-learn. Pixels 0..16 become ``uint8`` by
    ``round(v * 255 / 16)``.

    There is no official test set: 360 images, each class in proportion, are set aside by a constant seed that
    does not depend on the run's seed (ours). The other 1,437 are the labelled pool.

    Example:
        >>> data = Digits().load()
        >>> len(data.labelled), len(data.test), data.labelled.images.shape
        (1437, 360, (1, 8, 8))
    """

    def load(self) -> SourceData:
        """Read the images from scikit-learn's files."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = ArrayImages(np.round(digits.images * 255 / 16).astype(np.uint8)[:, None])
        labels = digits.target.astype(np.int64)
        is_test = _stratified_choice(labels, _NUM_TEST)
        pool, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        return SourceData(
            classes=tuple(str(name) for name in digits.target_names),
            labelled=ImageSet(images=take(images, pool), labels=labels[pool]),
            unlabelled=None,
            test=ImageSet(images=take(images, test), labels=labels[test]),
        )


def _stratified_choice(labels: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Choose ``count`` labels, each class in proportion (rounded by largest remainder)."""
    shares = np.bincount(labels) * count / len(labels)
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: count - counts.sum()]] += 1
    # Sorting raw draws, not Generator.permutation: the draws stay the same over versions of numpy.
    draws = np.random.default_rng(_TEST_SEED).random(len(labels))
    chosen = np.zeros(len(labels), np.bool_)
    for label, number in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen[members[np.argsort(draws[members])[:number]]] = True
    return chosen
