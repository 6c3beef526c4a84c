"""The order of images in blocks, and how sets made of others are cut into blocks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from layermatch.data.blocks import BlockOrder, Blocks, KeptImages, blocks_of
from layermatch.data.images import ArrayImages, ConcatImages, take


def numbered(count: int) -> ArrayImages:
    return ArrayImages(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1))


def in_blocks(*sizes: int, window: int = 2) -> KeptImages:
    return KeptImages(numbered(sum(sizes)), like=Blocks(np.cumsum(sizes), window))


def order_of(*sizes: int, window: int, seed: int = 0) -> BlockOrder:
    return BlockOrder(Blocks(np.cumsum(sizes), window), seed=seed, stream=20)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 50])
def test_each_epoch_has_every_image_once_and_reads_a_window_at_a_time(window: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 9, 12)
    order, total = order_of(*sizes, window=window), int(sizes.sum())
    owner = np.repeat(np.arange(len(sizes)), sizes)
    epochs = []
    for epoch in range(3):
        found = order.positions(start=epoch * total, count=total)
        assert sorted(found.tolist()) == list(range(total))
        places = [np.flatnonzero(owner[found] == k) for k in range(len(sizes))]
        begun, done = (np.bincount([each[end] for each in places], minlength=total) for end in (0, -1))
        assert (begun.cumsum() - (done.cumsum() - done) <= window).all()  # blocks that are begun and not over
        epochs.append(found.tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_any_stretch_is_that_of_the_whole_and_of_its_seed() -> None:
    sizes = (5, 1, 8, 3, 3, 6)
    whole = order_of(*sizes, window=2).positions(start=0, count=100)
    rng = np.random.default_rng(1)
    order = order_of(*sizes, window=2)  # asked back and forth, what it remembers does not show
    for start in rng.integers(0, 90, 40).tolist():
        count = int(rng.integers(0, 100 - start))
        assert order.positions(start=start, count=count).tolist() == whole[start : start + count].tolist()
    again = pickle.loads(pickle.dumps(order))  # noqa: S301 -- our own
    assert again.positions(start=17, count=30).tolist() == whole[17:47].tolist()
    assert order_of(*sizes, window=2, seed=1).positions(start=0, count=26).tolist() != whole[:26].tolist()


def test_what_is_kept_does_not_grow_with_the_images_of_an_epoch() -> None:
    few, many = (BlockOrder(Blocks(np.cumsum(np.full(n, 1000)), 2), seed=0, stream=1) for n in (100, 10_000))
    for order in (few, many):
        order.positions(start=12_345, count=64)
    sizes = [len(pickle.dumps(order)) for order in (few, many)]
    assert sizes[1] - sizes[0] < 8 * 4 * 9_900 + 1000  # some numbers a block


def test_parts_and_several_sets_are_cut_where_the_whole_is() -> None:
    images = in_blocks(3, 4, 2, window=5)
    ends, window = blocks_of(images) or (None, 0)
    assert (ends.tolist(), window) == ([3, 7, 9], 5)
    assert blocks_of(take(images, np.array([1, 2, 7, 8]))).ends.tolist() == [2, 4]
    assert blocks_of(take(images, np.array([8, 1, 8]))).ends.tolist() == [1, 2, 3]
    assert blocks_of(ConcatImages([numbered(4), images])).ends.tolist() == [4, 7, 11, 13]
    assert blocks_of(ConcatImages([images, numbered(4)])).sizes.tolist() == [3, 4, 2, 4]
    assert blocks_of(ConcatImages([numbered(4), numbered(2)])) is None
    assert blocks_of(take(numbered(4), np.array([1]))) is None
