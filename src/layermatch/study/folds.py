"""Folds of the labelled images: each run of a study with folds holds one of them out.

Here torch is imported and the data set is read, so only the process that looks before the first run comes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.build import build_data, build_device
from layermatch.data import Split, Views
from layermatch.data.digests import Digests
from layermatch.data.sources.base import shorten
from layermatch.data.wording import printable
from layermatch.errors import UserError
from layermatch.settings import Settings

__all__ = ["deal", "make_folds"]

#: The random numbers that folds are dealt by are no others'.
_FOLD_STREAM = 91


def deal(
    labels: NDArray[np.int64], content: NDArray[np.uint64], *, folds: int, seed: int, classes: Sequence[str]
) -> list[NDArray[np.int64]]:
    """Deal labelled images to folds, such that each fold has its share of every class.

    Images that are byte-identical are in one fold: held out beside a twin that is learnt from, an image says nothing of
    others. Every class is left in what each run learns from.

    Args:
        labels: ``(n,)`` int64, the class of each labelled image.
        content: ``(n,)``, a digest of each image.
        folds: The number of folds, at least 2.
        seed: The seed of the order, a whole number, at least 0.
        classes: The name of each class, for messages.

    Returns:
        The places of the images of each fold, in order; together they are every image once.

    Raises:
        UserError: A class has no image that is left to learn from, or there are not enough images.

    Example:
        >>> found = deal(np.arange(6) % 2, np.arange(6, dtype=np.uint64), folds=3, seed=0, classes=("a", "b"))
        >>> [sorted((part % 2).tolist()) for part in found]
        [[0, 1], [0, 1], [0, 1]]
    """
    counts = np.bincount(labels, minlength=len(classes))
    _, twins = np.unique(content, return_inverse=True)
    members = np.split(np.argsort(twins, kind="stable"), np.cumsum(np.bincount(twins))[:-1])
    fold_of = np.empty(len(labels), np.int64)
    dealt = np.zeros((folds, len(classes)), np.int64)
    for twin in _in_order(labels, twins, seed=seed):
        rows = members[twin]
        # To the fold with the fewest images of the class, and of those to the one with the fewest in all.
        fold = np.lexsort((dealt.sum(axis=1), dealt[:, labels[rows[0]]]))[0]
        fold_of[rows] = fold
        dealt[fold] += np.bincount(labels[rows], minlength=len(classes))
    alone = [printable(classes[k]) for k in np.flatnonzero((counts - dealt).min(axis=0) == 0).tolist() if counts[k]]
    if alone:
        raise UserError(
            f"study.folds={folds} needs at least 2 labelled images of each class that are not identical, and has not "
            f"as many of {shorten(alone)}: give more labels, study.num_labels=[NUMBER]"
        )
    if not dealt.any(axis=1).all():
        raise UserError(f"study.folds={folds} is more than there are labelled images: give fewer folds, or more labels")
    return [np.flatnonzero(fold_of == fold) for fold in range(folds)]


def _in_order(labels: NDArray[np.int64], twins: NDArray[np.int64], *, seed: int) -> list[int]:
    """Return the groups of identical images class after class, in random order within each."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FOLD_STREAM,)))
    shuffled = generator.permutation(len(labels))
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return list(dict.fromkeys(twins[ordered].tolist()))


def make_folds(raw: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Draw the labelled images as a run without folds would, deal them to folds, and write the split of each.

    A file that is there stays: folds are dealt once.

    Args:
        raw: The composed configuration of a run, with the section ``data`` as it is without folds.
        paths: The file of each fold, in their order.

    Raises:
        UserError: The labelled images cannot be dealt.
        OSError: A file cannot be written.
    """
    if all(Path(path).exists() for path in paths):
        return
    settings = Settings.parse(dict(raw))
    data = build_data(settings, device=build_device(settings), views=Views(unlabelled={}))
    with settings.data.named_in_errors():
        data.setup()
    drawn, pool = data.split, data.content.labelled
    rows = np.sort(np.asarray((*drawn.labelled, *drawn.validation) if _are_labels(raw) else drawn.labelled, np.int64))
    dealt = deal(
        pool.labels[rows],
        Digests().of(pool.images)[rows],
        folds=len(paths),
        seed=settings.seed,
        classes=data.content.classes,
    )
    for path, held_out in zip(map(Path, paths), dealt, strict=True):
        if not path.exists():
            split = replace(
                drawn,
                labelled=tuple(np.delete(rows, held_out).tolist()),
                validation=tuple(rows[held_out].tolist()),
                names=(),
                contents=(),
                left_out=(),
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            # By what the draw knows of its images: where they are kept now, they are decoded and no files.
            names, contents = (_of_images(known, drawn, split) for known in (drawn.names, drawn.contents))
            replace(split, names=names, contents=contents).save(path)


def _of_images(known: Sequence[str], drawn: Split, split: Split) -> tuple[str, ...]:
    """Return what a draw knows of its images for those of another split of them; empty where it knows nothing."""
    if not known:
        return ()
    by_position = dict(zip(drawn.positions, known, strict=True))
    return tuple(by_position[position] for position in split.positions)


def _are_labels(raw: Mapping[str, Any]) -> bool:
    """Return whether the images that are held out without folds are of the labelled ones, and so to be dealt too."""
    return bool(raw["data"].get("val_from") == "labelled")
