"""The 8x8 digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layermatch.data.images import ArrayImages
from layermatch.data.sources.base import SourceData
from layermatch.data.sources.held_out import with_test_part

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
        classes = tuple(str(name) for name in digits.target_names)
        return with_test_part(images, labels, classes=classes, count=_NUM_TEST, seed=_TEST_SEED)
