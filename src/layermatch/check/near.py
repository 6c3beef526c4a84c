"""Hashes that differ in few bits, without comparing each with each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "first_near"]

#: The bits of a hash.
BITS = 64


def first_near(
    hashes: NDArray[np.uint64],
    groups: NDArray[np.int64],
    *,
    distance: int,
    is_same: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> NDArray[np.int64]:
    """Return of each hash and each group the first hash before it that is near it: differs in so many bits at most.

    Of two such hashes, cut into ``distance + 1`` bands of bits, one band at least is the same in both (there are more
    bands than bits that differ). So hashes are sorted by each band, and compared within a run of equal ones alone: for
    N random hashes these are about :math:`N^2 / 2^{64 / (distance + 1)}` comparisons of a band, where all pairs would
    be :math:`N^2 / 2`. Only what can be the first one is looked at, so the frames of a camera that stands still, which
    are all near one another, take about N looks and no more memory than others.

    Args:
        hashes: ``(N,)``.
        groups: The group of each, ``(N,)`` integers from 0.
        distance: The most bits that differ, from 0 to 15.
        is_same: A function that says of pairs ``(P, 2)`` of near positions which to take, ``(P,)``.

    Returns:
        ``(P, 2)`` int64, positions ``i < j``, sorted by ``j`` and the group of ``i``.

    Example:
        >>> hashes, groups = np.array([0b0000, 0b0111, 0b0001, 0b0011], np.uint64), np.array([0, 0, 1, 0])
        >>> everything = lambda pairs: np.ones(len(pairs), np.bool_)
        >>> first_near(hashes, groups, distance=1, is_same=everything).tolist()
        [[0, 2], [1, 3], [2, 3]]
    """
    num_groups = 1 + int(groups.max(initial=0))
    first = np.full((len(hashes), num_groups), len(hashes))
    earliest = np.full(num_groups, len(hashes))
    np.minimum.at(earliest, groups, np.arange(len(hashes)))
    for low, high in _bands(distance + 1):
        order, begins = _runs((hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1))
        # Each with the first one of its run, then each with the second one, ...: who is before it is at a lower place.
        place, step = np.arange(len(hashes)), 0
        while len(place := place[place > begins[place] + step]):
            one, other = order[begins[place] + step], order[place]
            looked_at = first[other, groups[one]] > one
            one, other = one[looked_at], other[looked_at]
            is_near = np.bitwise_count(hashes[one] ^ hashes[other]) <= distance
            pairs = np.stack([one[is_near], other[is_near]], axis=1)
            if len(pairs):
                one, other = pairs[is_same(pairs)].T
                first[other, groups[one]] = one
            step += 1
            if step & (step - 1) == 0:  # now and then, those are let go that no later one of their run can be first of
                later = order[begins[place] + step, None]
                place = place[np.any((first[order[place]] > later) & (earliest < order[place, None]), axis=1)]
    second, group = np.nonzero(first < len(hashes))
    return np.stack([first[second, group], second], axis=1)


def _bands(count: int) -> list[tuple[int, int]]:
    """Return the first and the last bit but one of each band."""
    edges = [BITS * number // count for number in range(count + 1)]
    return list(pairwise(edges))


def _runs(band: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order that sorts, equal ones by their positions, and where the run of each place of it begins."""
    order = np.argsort(band, kind="stable")
    is_new = np.diff(band[order], prepend=~band[order[:1]]) != 0
    begins = np.maximum.accumulate(np.where(is_new, np.arange(len(band)), 0))
    return order, begins
