"""Labels that are wrong at a known rate, to study what a method makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["with_wrong_labels"]

_NOISE_STREAM = 2


def with_wrong_labels(labels: NDArray[np.int64], *, noise: float, num_classes: int, seed: int) -> NDArray[np.int64]:
    r"""Give some images the label of another class, each other class with the same probability (symmetric noise).

    Exactly :math:`\lfloor r N + 1/2 \rfloor` labels are wrong. The images that have a wrong label at one rate have the
    same one at every higher rate.

    NOTE: many codes draw the new label from all classes, so that of a rate of 40 % every tenth image of ten classes
    keeps its own; here the rate is that of wrong labels.

    Args:
        labels: ``(N,)`` int64 in ``[0, K)``, the right labels.
        noise: ``r``, the share of wrong labels, in ``[0, 1]``.
        num_classes: ``K``, at least 2.
        seed: A whole number, at least 0.

    Returns:
        ``(N,)`` int64.

    Example:
        >>> right = np.arange(10) % 5
        >>> int((with_wrong_labels(right, noise=0.4, num_classes=5, seed=0) != right).sum())
        4
    """
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_NOISE_STREAM,)))
    order, step = generator.random((2, len(labels)))
    wrong = np.argsort(order, kind="stable")[: int(noise * len(labels) + 0.5)]
    given = labels.copy()
    # 1 to K - 1 classes further, so never the right one.
    given[wrong] = (labels[wrong] + 1 + (step[wrong] * (num_classes - 1)).astype(np.int64)) % num_classes
    return given
