"""Which images of a data set are labelled and which are held out, as the settings ask for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermatch.data.identity import identify, place
from layermatch.data.imbalance import Imbalance
from layermatch.data.sources import SourceData
from layermatch.data.sources.base import shorten
from layermatch.data.splits import Split, draw_beside_fold, make_split
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_number

__all__ = ["Labelling", "name_classes_without_labels"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """The settings by which labels are drawn; see :class:`~layermatch.data.SemiSupervisedData`.

    Args:
        num_labels: The number of labelled images in all; None takes every image, or what a split or a fold says.
        num_val: The number of images held out for validation.
        val_from: The part that they come from, ``labelled`` or ``pool``.
        fold: The predefined label set that is used; None draws one.
        imbalance: The long tails that are drawn; None draws none.
        seed: The seed of the draw.
    """

    num_labels: int | None
    num_val: int
    val_from: str
    fold: int | None
    imbalance: Imbalance | None
    seed: int

    def split(self, content: SourceData, given: Split | None, *, among: NDArray[np.int64] | None = None) -> Split:
        """Draw the labels, or find again those of a given split.

        Args:
            content: The data set.
            given: A split that is used again; None draws one.
            among: The positions that are drawn from; None draws from all.

        Returns:
            The split, which knows its images.

        Raises:
            UserError: The settings exclude each other, or do not fit the data set or the split.
        """
        self._check_imbalance(content, given)
        if content.validation is not None and self.num_val:
            raise UserError(
                f"num_val={self.num_val}: this data set has {len(content.validation):,} validation images of its "
                "own: give num_val=0"
            )
        if given is not None:
            return self._find_again(given, content)
        pool_size = len(content.labelled)
        rows = np.arange(pool_size) if among is None else among
        return identify(self._draw(content, rows).of_part(rows, pool_size=pool_size), content)

    def _draw(self, content: SourceData, rows: NDArray[np.int64]) -> Split:
        """Draw a split of the images at ``rows``, by their places in it."""
        if self.fold is not None:
            return self._draw_beside_fold(self.fold, content, rows)
        return make_split(
            content.labelled.labels[rows],
            num_classes=len(content.classes),
            num_labels=self.num_labels,
            num_val=self.num_val,
            val_from=self.val_from,
            seed=self.seed,
            imbalance=self.imbalance,
        )

    def _draw_beside_fold(self, number: int, content: SourceData, rows: NDArray[np.int64]) -> Split:
        folds = content.folds
        if not folds:
            raise UserError(f"fold={number}: this data set has no predefined folds: give fold=null")
        check_number("fold", number, low=0, high=len(folds) - 1, integer=True)
        fold = folds[number]
        if self.num_labels not in {None, len(fold)}:
            raise UserError(f"fold={number} has {len(fold)} labels: give num_labels={len(fold)}, not {self.num_labels}")
        return draw_beside_fold(
            content.labelled.labels[rows],
            fold=np.searchsorted(rows, fold),
            num_classes=len(content.classes),
            num_val=self.num_val,
            seed=self.seed,
        )

    def _find_again(self, given: Split, content: SourceData) -> Split:
        if self.fold is not None:
            raise UserError(
                f"a split and fold={self.fold} both say which images are labelled: give split=null or fold=null"
            )
        split, remark = place(given, content)
        if remark and is_rank_zero():
            _log.warning("%s", remark)
        self._check_counts(split)
        return split

    def _check_imbalance(self, content: SourceData, given: Split | None) -> None:
        """Refuse a long tail where something else says which images there are, or where classes are not known."""
        if self.imbalance is None:
            return
        if given is not None:
            raise UserError(
                "a split and an imbalance both say which images are labelled: give split=null or imbalance=null"
            )
        if self.fold is not None:
            raise UserError(
                f"fold={self.fold} and an imbalance both say which images are labelled: give fold=null or "
                "imbalance=null"
            )
        if self.imbalance.unlabelled is not None and content.unlabelled is not None:
            raise UserError(
                f"imbalance.unlabelled={self.imbalance.unlabelled} needs the class of every image of the pool, and "
                f"{len(content.unlabelled):,} of this data set come without labels: give imbalance.unlabelled=null"
            )

    def _check_counts(self, split: Split) -> None:
        """Refuse a given split that has not as many images as is asked for beside it."""
        drawn = count = len(split.labelled)
        if self.val_from == "labelled":  # then num_labels counted the validation images as well
            drawn += len(split.validation)
        if self.num_labels not in {None, count, drawn}:
            raise UserError(
                f"{split.title} has {count} labelled images, but num_labels={self.num_labels}: give "
                f"num_labels={count}, or null"
            )
        if self.num_val not in {0, len(split.validation)}:
            raise UserError(
                f"{split.title} holds out {len(split.validation)} validation images, but num_val={self.num_val}: "
                f"give num_val={len(split.validation)}, or another split"
            )


def name_classes_without_labels(labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Warn of classes of which no image is labelled.

    Args:
        labels: ``(N,)``, the class of each labelled image.
        classes: The name of each class.
    """
    counts = np.bincount(labels, minlength=len(classes))
    without = [name for name, count in zip(classes, counts, strict=True) if not count]
    if without and is_rank_zero():
        _log.warning(
            "no image of %d of the %d classes is labelled (%s): they cannot be learnt",
            len(without), len(classes), shorten(without),
        )  # fmt: skip
