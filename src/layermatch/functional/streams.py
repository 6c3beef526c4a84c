"""Random streams with random access: any stretch of them can be computed without what comes before.

Position ``g`` of a stream is a pure function of (seed, stream, g). A training step reads the stretch of positions that
its batch takes, so a run can stop anywhere and go on bit for bit, ranks never need to talk about data, and neither the
number of ranks nor the batch split changes what the samples of a global batch look like.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["shuffled_positions", "uniforms"]

#: Philox makes four 64-bit words for each tick of its counter.
_WORDS_PER_TICK = 4


def uniforms(*, seed: int, stream: int, start: int, count: int, width: int) -> NDArray[np.float32]:
    """Draw rows ``start`` to ``start + count`` of an endless table of uniform random numbers.

    The generator is Philox 4x64 (Salmon et al. 2011), a counter-based generator: row ``g`` is where its counter stands
    after ``g`` rows.

    Args:
        seed: A whole number, at least 0.
        stream: The number of one of the seed's tables, at least 0.
        start: The first row, at least 0.
        count: The number of rows, at least 0.
        width: The count of numbers in a row, at least 0.

    Returns:
        ``(count, width)`` float32 in ``[0, 1)``, multiples of ``2**-24``.

    Example:
        >>> table = uniforms(seed=0, stream=1, start=0, count=10, width=3)
        >>> bool((table[4:6] == uniforms(seed=0, stream=1, start=4, count=2, width=3)).all())
        True
    """
    ticks_per_row = -(-width // _WORDS_PER_TICK)  # rounded up: a row starts at a tick of its own
    generator = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream,)))
    generator.advance(start * ticks_per_row)
    words_per_row = ticks_per_row * _WORDS_PER_TICK
    words = generator.random_raw(count * words_per_row).reshape(count, words_per_row)[:, :width]
    # 24 bits fill float32's mantissa exactly; a rounded float64 could become 1.0.
    return (words >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def shuffled_positions(*, seed: int, stream: int, start: int, count: int, size: int) -> NDArray[np.int64]:
    """Return a stretch of an endless sequence of shuffles of ``range(size)``.

    Positions ``[e size, (e + 1) size)`` hold every index once, in an order of epoch ``e`` alone.

    Args:
        seed: A whole number, at least 0.
        stream: The number of one of the seed's sequences, at least 0.
        start: The first position, at least 0.
        count: The number of positions, at least 0.
        size: The number of elements, at least 1.

    Returns:
        ``(count,)`` int64 in ``[0, size)``.

    Example:
        >>> sorted(shuffled_positions(seed=0, stream=0, start=8, count=4, size=4).tolist())
        [0, 1, 2, 3]
    """
    pieces = [np.empty(0, np.int64)]
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, size)
        order = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, epoch))).permutation(size)
        pieces.append(order[offset : offset + end - position])
        position += len(pieces[-1])
    return np.concatenate(pieces)
