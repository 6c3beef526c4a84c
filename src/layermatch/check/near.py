"""Hashes that differ in few bits, without comparing each with each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "near_pairs"]

#: The bits of a hash.
BITS = 64


def near_pairs(hashes: NDArray[np.uint64], *, distance: int) -> NDArray[np.int64]:
    """The pairs of hashes that differ in so many bits at most.

    Of two such hashes, cut into ``distance + 1`` bands of bits, one band at least is the same in both (there are more
    bands than bits that differ). So hashes are sorted by each band, and compared within a run of equal ones alone: for
    N random hashes these are about :math:`N^2 / 2^{64 / (distance + 1)}` comparisons of a band, where all pairs would
    be :math:`N^2 / 2`.

    Args:
        hashes: ``(N,)``.
        distance: The most bits that differ, from 0 to 15.

    Returns:
        ``(P, 2)`` int64, positions ``i < j``, sorted; each pair once.

    Example:
        >>> near_pairs(np.array([0b0000, 0b0111, 0b0001], np.uint64), distance=2).tolist()
        [[0, 2], [1, 2]]
    """
    found = [_pairs_of_band(hashes, distance, first, last) for first, last in _bands(distance + 1)]
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(pairs, axis=0)


def _bands(count: int) -> list[tuple[int, int]]:
    """The first and the last bit but one of each band."""
    edges = [BITS * number // count for number in range(count + 1)]
    return list(pairwise(edges))


def _pairs_of_band(hashes: NDArray[np.uint64], distance: int, first: int, last: int) -> NDArray[np.int64]:
    mask = np.uint64((1 << (last - first)) - 1)
    band = (hashes >> np.uint64(first)) & mask
    order = np.argsort(band, kind="stable")
    band, whole = band[order], hashes[order]
    found = []
    # Neighbours at a step of 1, 2, ... in the sorted order, as long as any of them share the band.
    place = np.arange(len(hashes) - 1)
    step = 1
    while len(place := place[place + step < len(hashes)]):
        place = place[band[place] == band[place + step]]
        near = place[np.bitwise_count(whole[place] ^ whole[place + step]) <= distance]
        found.append(np.stack([order[near], order[near + step]], axis=1))
        step += 1
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.sort(pairs, axis=1).astype(np.int64)
