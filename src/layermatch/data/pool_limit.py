"""A seeded part of the unlabelled pool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from layermatch.data.blocks import Blocks, blocks_of
from layermatch.data.images import ConcatImages, take
from layermatch.data.shard_images import StreamedImages
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.splits import Split
from layermatch.errors import UserError

__all__ = ["limit_pool"]

#: The stream of the split's seed that the part is drawn with.
_STREAM = 2

_Rows = NDArray[np.int64]


def limit_pool(split: Split, content: SourceData, *, pool_limit: int) -> tuple[Split, SourceData]:
    """Leave images out of the unlabelled pool until it has so many.

    Labelled images stay in it. Which of the others do is a function of the seed that the split was drawn with: those of
    a smaller pool are among those of a larger one. Of images in shards whole shards stay, and the first images of one
    more, so that no other shard is read.

    Args:
        split: The split, which knows what is left out for other reasons.
        content: The data set.
        pool_limit: The number of images that the pool shall have, labelled ones among them.

    Returns:
        The split, which leaves out images of the training pool, and the data set with fewer further images.

    Raises:
        UserError: The pool has fewer images, or more are labelled.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> digits = Digits().load()
        >>> split, _ = limit_pool(Split(0, len(digits.labelled), (3, 4), (5,)), digits, pool_limit=100)
        >>> len(split.in_pool), 3 in split.in_pool, 5 in split.in_pool
        (100, True, False)
    """
    more, labelled = content.unlabelled, np.asarray(split.labelled, np.int64)
    others = np.setdiff1d(split.in_pool, labelled)
    num_more = 0 if more is None else len(more)
    whole = len(split.in_pool) + num_more
    if not len(labelled) <= pool_limit <= whole:
        raise UserError(
            f"pool_limit={pool_limit} is not legal: give a whole number from {len(labelled)}, the labelled images, "
            f"which are in the pool too, to {whole}, all of it, or null for all"
        )
    blocks = _blocks(content, others)
    count = pool_limit - len(labelled)
    generator = np.random.default_rng(np.random.SeedSequence(split.seed, spawn_key=(_STREAM,)))
    if blocks is None:
        chosen = np.sort(generator.permutation(len(others) + num_more)[:count])
        kept, rows = others[chosen[chosen < len(others)]], chosen[chosen >= len(others)] - len(others)
        content = content if more is None else _with_fewer(content, more, rows)
    else:
        kept, content = _whole_blocks(content, others, blocks.sizes, generator.permutation(len(blocks.ends)), count)
    left_out = np.setdiff1d(others, kept)
    return replace(split, left_out=tuple(sorted({*split.left_out, *left_out.tolist()}))), content


def _blocks(content: SourceData, others: _Rows) -> Blocks | None:
    """Return how all images that may be left out are cut into blocks."""
    parts = [take(content.labelled.images, others)] if len(others) else []
    more = [] if content.unlabelled is None else [content.unlabelled.images]
    return blocks_of(ConcatImages([*parts, *more])) if parts or more else None


def _whole_blocks(
    content: SourceData, others: _Rows, sizes: _Rows, order: _Rows, count: int
) -> tuple[_Rows, SourceData]:
    """Return which images of the training pool stay, and the data set with the further ones that do."""
    before = np.cumsum(sizes[order]) - sizes[order]
    counts = np.zeros(len(sizes), np.int64)
    counts[order] = np.clip(count - before, 0, sizes[order])
    starts = np.cumsum(sizes) - sizes
    is_of_pool = starts < len(others)
    places = [np.arange(start, start + number) for start, number in zip(starts, counts, strict=True)]
    kept = others[
        np.concatenate(
            [np.empty(0, np.int64), *(each for each, is_so in zip(places, is_of_pool, strict=True) if is_so)]
        )
    ]
    more = content.unlabelled
    if more is None:
        return kept, content
    of_more = counts[~is_of_pool]
    if isinstance(more.images, StreamedImages):
        left = more.images.first(of_more)
        fewer = ImageSet(left, np.broadcast_to(more.labels[:1], (len(left),))) if len(left) else None
        return kept, replace(content, unlabelled=fewer)
    rows = [each - len(others) for each, is_so in zip(places, is_of_pool, strict=True) if not is_so]
    return kept, _with_fewer(content, more, np.concatenate(rows))


def _with_fewer(content: SourceData, more: ImageSet, rows: _Rows) -> SourceData:
    """Return the data set with the further images at ``rows``."""
    ids = {part: names for part, names in content.image_ids.items() if part != "unlabelled"}
    if len(rows) and "unlabelled" in content.image_ids:
        ids["unlabelled"] = tuple(content.image_ids["unlabelled"][row] for row in rows.tolist())
    left = ImageSet(take(more.images, rows), more.labels[rows]) if len(rows) else None
    return replace(content, unlabelled=left, image_ids=ids)
