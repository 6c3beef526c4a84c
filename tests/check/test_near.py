"""Hashes that differ in few bits are found without comparing each with each."""

from __future__ import annotations

import numpy as np
import pytest

from layermatch.check.near import near_pairs


def all_pairs(hashes: list[int], distance: int) -> list[list[int]]:
    return [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= distance
    ]


@pytest.mark.parametrize("distance", [0, 1, 4, 15])
def test_the_pairs_are_those_of_comparing_all(distance: int) -> None:
    rng = np.random.default_rng(distance)
    some = [int(value) for value in rng.integers(0, 2**63, 60)]
    flipped = [
        value ^ sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 18), replace=False)) for value in some
    ]
    hashes = [*some, *flipped, some[0], some[0]]
    expected = all_pairs(hashes, distance)
    assert expected
    assert near_pairs(np.array(hashes, np.uint64), distance=distance).tolist() == expected


@pytest.mark.parametrize("count", [0, 1])
def test_there_is_no_pair_of_nothing(count: int) -> None:
    assert near_pairs(np.zeros(count, np.uint64), distance=4).shape == (0, 2)


def test_60000_hashes_take_a_second() -> None:
    import time

    hashes = np.random.default_rng(0).integers(0, 2**63, 60_000).astype(np.uint64)
    hashes[123] = hashes[54_321] ^ np.uint64(0b1011)
    started = time.process_time()
    pairs = near_pairs(hashes, distance=4)
    assert [123, 54_321] in pairs.tolist()
    assert time.process_time() - started < 5  # about 0.1 s; comparing each with each would take minutes
