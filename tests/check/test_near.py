"""The first near hash of each group is found without comparing each with each."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from layermatch.check.near import first_near

Pairs = NDArray[np.int64]


def everything(pairs: Pairs) -> NDArray[np.bool_]:
    return np.ones(len(pairs), np.bool_)


def even(pairs: Pairs) -> NDArray[np.bool_]:
    """The sum of both positions is even."""
    return np.asarray(pairs.sum(axis=1) % 2 == 0)


def by_all_pairs(
    hashes: list[int], groups: list[int], distance: int, is_same: Callable[[Pairs], NDArray[np.bool_]]
) -> list[list[int]]:
    found = []
    for j in range(len(hashes)):
        for group in range(max(groups) + 1):
            near = [
                i
                for i in range(j)
                if groups[i] == group
                and (hashes[i] ^ hashes[j]).bit_count() <= distance
                and is_same(np.array([[i, j]]))[0]
            ]
            found += [[near[0], j]] if near else []
    return found


@pytest.mark.parametrize("is_same", [everything, even])
@pytest.mark.parametrize("distance", [0, 1, 4, 15])
def test_they_are_those_of_comparing_all(distance: int, is_same: Callable[[Pairs], NDArray[np.bool_]]) -> None:
    rng = np.random.default_rng(distance)
    some = [int(value) for value in rng.integers(0, 2**63, 60)]
    flipped = [
        value ^ sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 18), replace=False))
        for value in some
        for _ in range(3)
    ]
    hashes = [*some, *flipped, some[0], some[0]]
    groups = rng.integers(0, 3, len(hashes)).tolist()
    expected = by_all_pairs(hashes, groups, distance, is_same)
    assert expected
    found = first_near(np.array(hashes, np.uint64), np.array(groups), distance=distance, is_same=is_same)
    assert found.tolist() == expected


@pytest.mark.parametrize("count", [0, 1])
def test_there_is_none_of_nothing(count: int) -> None:
    found = first_near(np.zeros(count, np.uint64), np.zeros(count, np.int64), distance=4, is_same=everything)
    assert found.shape == (0, 2)


def test_60000_hashes_take_a_second() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 60_000).astype(np.uint64)
    hashes[123] = hashes[54_321] ^ np.uint64(0b1011)
    started = time.process_time()
    found = first_near(hashes, np.zeros(len(hashes), np.int64), distance=4, is_same=everything)
    assert [123, 54_321] in found.tolist()
    assert time.process_time() - started < 5  # about 0.1 s; comparing each with each would take minutes


def test_the_frames_of_a_camera_are_looked_at_once_or_twice() -> None:
    """All pairs of them are 450 million, of 7 GB."""
    rng = np.random.default_rng(0)
    frames = np.uint64(rng.integers(0, 2**63)) ^ (np.uint64(1) << rng.integers(0, 64, 30_000).astype(np.uint64))
    looks = 0

    def is_same(pairs: Pairs) -> NDArray[np.bool_]:
        nonlocal looks
        looks += len(pairs)
        return everything(pairs)

    started = time.process_time()
    found = first_near(frames, np.zeros(len(frames), np.int64), distance=4, is_same=is_same)
    assert found.tolist() == [[0, row] for row in range(1, len(frames))]
    assert looks < 3 * len(frames)
    assert time.process_time() - started < 60
