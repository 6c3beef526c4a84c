"""Random access to random numbers: uniforms against Philox in whole numbers, shuffles against their promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layermatch.functional.streams import shuffled_positions, uniforms

MASK = 2**64 - 1


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox 4x64 with 10 rounds (Salmon et al. 2011, section 3.3), word by word."""
    words = [(counter >> (64 * i)) & MASK for i in range(4)]
    k0, k1 = key
    for _ in range(10):
        product0, product1 = words[0] * 0xD2E7470EE14C6C93, words[2] * 0xCA5A826395121157
        words = [
            (product1 >> 64) ^ words[1] ^ k0,
            product1 & MASK,
            (product0 >> 64) ^ words[3] ^ k1,
            product0 & MASK,
        ]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return words


def reference_row(seed: int, stream: int, row: int, width: int) -> list[float]:
    first, second = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(2, np.uint64)
    ticks = math.ceil(width / 4)
    # The counter is moved on before it is read, so that the first tick is 1.
    words = [word for t in range(ticks) for word in philox(row * ticks + t + 1, (int(first), int(second)))]
    return [(word >> 40) / 2**24 for word in words[:width]]


@pytest.mark.parametrize("width", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("start", [0, 1, 17, 2**40])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (3, 11), (2**32 - 1, 22)])
def test_uniforms_are_philox_in_whole_numbers(seed: int, stream: int, start: int, width: int) -> None:
    table = uniforms(seed=seed, stream=stream, start=start, count=3, width=width)
    assert table.dtype == np.float32
    assert table.tolist() == [reference_row(seed, stream, start + n, width) for n in range(3)]


@pytest.mark.parametrize("width", [1, 3, 4, 9])
def test_uniforms_by_random_access_are_those_in_sequence(width: int) -> None:
    table = uniforms(seed=1, stream=2, start=0, count=200, width=width)
    for start, count in ((0, 200), (0, 1), (199, 1), (37, 64), (5, 0)):
        part = uniforms(seed=1, stream=2, start=start, count=count, width=width)
        np.testing.assert_array_equal(part, table[start : start + count])


@pytest.mark.parametrize(("count", "width"), [(0, 3), (0, 0), (5, 0), (1, 1)])
def test_uniforms_of_any_shape(count: int, width: int) -> None:
    table = uniforms(seed=0, stream=0, start=7, count=count, width=width)
    assert table.shape == (count, width)
    assert table.dtype == np.float32


def test_uniforms_are_in_range_and_multiples_of_their_step() -> None:
    table = uniforms(seed=5, stream=1, start=0, count=100_000, width=4)
    assert table.min() >= 0
    assert table.max() < 1
    assert table.max() > 1 - 1e-4
    assert table.min() < 1e-4
    steps = table.astype(np.float64) * 2**24
    np.testing.assert_array_equal(steps, np.round(steps))


def test_uniforms_have_the_moments_of_a_uniform() -> None:
    count = 100_000
    table = uniforms(seed=9, stream=3, start=0, count=count, width=5).astype(np.float64)
    # Five standard errors: of the mean sqrt(1/12/n), of the variance sqrt(1/180/n).
    np.testing.assert_allclose(table.mean(axis=0), 1 / 2, atol=5 * math.sqrt(1 / 12 / count))
    np.testing.assert_allclose(table.var(axis=0), 1 / 12, atol=5 * math.sqrt(1 / 180 / count))


def test_neither_rows_nor_columns_are_correlated() -> None:
    count = 50_000
    table = uniforms(seed=2, stream=4, start=0, count=count, width=5).astype(np.float64)
    between_columns = np.corrcoef(table, rowvar=False)
    assert abs(between_columns - np.eye(5)).max() < 5 / math.sqrt(count)
    for lag in (1, 2, 7):
        for column in table.T:
            assert abs(np.corrcoef(column[:-lag], column[lag:])[0, 1]) < 5 / math.sqrt(count - lag)


def test_each_seed_and_stream_has_numbers_of_its_own() -> None:
    tables = [
        uniforms(seed=seed, stream=stream, start=0, count=50, width=4) for seed in (0, 1, 2) for stream in (10, 11, 20)
    ]
    flat = np.concatenate([table.ravel() for table in tables])
    assert len(np.unique(flat)) > 0.999 * len(flat)
    # The same call again: the numbers come from nothing but the arguments.
    np.testing.assert_array_equal(uniforms(seed=1, stream=11, start=0, count=50, width=4), tables[4])


# ----------------------------------------------------------------------------------------------- shuffled_positions


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_every_epoch_holds_each_index_once(size: int) -> None:
    epochs = shuffled_positions(seed=0, stream=10, start=0, count=5 * size, size=size).reshape(5, size)
    assert epochs.dtype == np.int64
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (5, 1)))
    if size == 100:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5


@pytest.mark.parametrize("size", [1, 7, 30])
def test_positions_by_random_access_are_those_in_sequence(size: int) -> None:
    sequence = shuffled_positions(seed=3, stream=20, start=0, count=300, size=size)
    generator = np.random.default_rng(0)
    for _ in range(50):
        start, end = sorted(generator.integers(0, 301, 2).tolist())
        part = shuffled_positions(seed=3, stream=20, start=start, count=end - start, size=size)
        assert part.dtype == np.int64
        np.testing.assert_array_equal(part, sequence[start:end])


def test_a_batch_may_be_larger_than_the_set() -> None:
    batch = shuffled_positions(seed=0, stream=0, start=3, count=25, size=4)
    np.testing.assert_array_equal(np.sort(batch[1:25].reshape(6, 4), axis=1), np.tile(np.arange(4), (6, 1)))


def test_positions_far_out() -> None:
    size = 1000
    start = (2**40 // size) * size
    epoch = shuffled_positions(seed=0, stream=10, start=start, count=size, size=size)
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    again = shuffled_positions(seed=0, stream=10, start=2**40, count=size - 2**40 % size, size=size)
    np.testing.assert_array_equal(again, epoch[2**40 % size :])
    first = shuffled_positions(seed=0, stream=10, start=0, count=size, size=size)
    assert (first == epoch).mean() < 0.02


def test_each_seed_and_stream_has_an_order_of_its_own() -> None:
    orders = {
        tuple(shuffled_positions(seed=seed, stream=stream, start=0, count=50, size=50).tolist())
        for seed in (0, 1, 2, 2**32 - 1)
        for stream in (10, 20)
    }
    assert len(orders) == 8


def test_every_index_comes_first_equally_often() -> None:
    epochs = shuffled_positions(seed=4, stream=10, start=0, count=5 * 4000, size=5).reshape(4000, 5)
    for place in epochs.T:
        counts = np.bincount(place, minlength=5)
        # Chi-squared with 4 degrees of freedom is above 23.5 once in 10,000.
        assert ((counts - 800) ** 2 / 800).sum() < 23.5


def test_the_order_is_the_same_for_ever() -> None:
    # Recorded once. After a change here, a run would not go on from its checkpoint with the images that it began with.
    recorded = [2, 3, 6, 7, 5, 0, 4, 1, 3, 5, 4, 2]
    assert shuffled_positions(seed=0, stream=10, start=0, count=12, size=8).tolist() == recorded
