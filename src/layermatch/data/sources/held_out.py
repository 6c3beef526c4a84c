"""A test set for data that have none: the same images in every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layermatch.data.images import ArrayImages, take
from layermatch.data.sources.base import ImageSet, SourceData

__all__ = ["choose_in_proportion", "with_test_part"]


def with_test_part(
    images: ArrayImages, labels: NDArray[np.int64], *, classes: tuple[str, ...], count: int, seed: int
) -> SourceData:
    """Set some images aside to test on; the others are the labelled pool.

    Args:
        images: ``N`` images.
        labels: ``(N,)`` int64, the class of each.
        classes: The names of the classes.
        count: The number of test images, each class in proportion.
        seed: It decides which ones. It is a constant of a data set and never the run's seed, as all runs must be tested
            on the same images.

    Example:
        >>> images = ArrayImages(np.zeros((6, 1, 8, 8), np.uint8))
        >>> data = with_test_part(images, np.arange(6) % 2, classes=("cat", "dog"), count=2, seed=0)
        >>> len(data.labelled), data.test.labels.tolist()
        (4, [0, 1])
    """
    is_test = choose_in_proportion(labels, count, seed=seed)
    pool, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return SourceData(
        classes=classes,
        labelled=ImageSet(images=take(images, pool), labels=labels[pool]),
        unlabelled=None,
        test=ImageSet(images=take(images, test), labels=labels[test]),
    )


def choose_in_proportion(labels: NDArray[np.int64], count: int, *, seed: int) -> NDArray[np.bool_]:
    """Choose ``count`` images, each class in proportion (rounded by largest remainder).

    Args:
        labels: ``(N,)`` int64, the class of each image.
        count: The number of images to choose, from 0 to ``N``.
        seed: It decides which ones.

    Returns:
        ``(N,)``, whether each was chosen.

    Example:
        >>> choose_in_proportion(np.zeros(3, np.int64), 2, seed=0).sum()
        np.int64(2)
    """
    shares = np.bincount(labels) * count / len(labels)
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: count - counts.sum()]] += 1
    # Sorting raw draws, not Generator.permutation: the draws stay the same over versions of numpy.
    draws = np.random.default_rng(seed).random(len(labels))
    chosen = np.zeros(len(labels), np.bool_)
    for label, number in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen[members[np.argsort(draws[members])[:number]]] = True
    return chosen
