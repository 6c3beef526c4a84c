"""The sets of a run: which images of a source are labelled, in the pool, held out or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from layermatch.data.blocks import blocks_of
from layermatch.data.digests import Digests
from layermatch.data.images import ArrayImages, ConcatImages, chunks_of, image_bytes, take
from layermatch.data.label_noise import with_wrong_labels
from layermatch.data.labelling import Labelling, name_classes_without_labels
from layermatch.data.leaks import HANDLINGS, Compared, Leaks
from layermatch.data.open_set import leave_classes_out
from layermatch.data.pool_limit import limit_pool
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.sources.base import UNKNOWN, unknown_labels
from layermatch.data.splits import Split
from layermatch.data.storage import Storage
from layermatch.distributed import is_rank_zero
from layermatch.errors import UserError, check_choice, check_number

__all__ = ["Selection", "Sets"]

#: Streamed images that are labelled or evaluated are decoded once, and kept in memory where they take no more (1 GiB).
HELD_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What a run learns from and is evaluated on.

    Args:
        content: The data set, with its images where they are kept.
        split: Which of its images are labelled, held out and left out.
        labelled: The labelled images, with the labels that are learnt from.
        unlabelled: The unlabelled pool, labelled images among them as ones of unknown class.
        validation: The images held out; None where there are none.
        leaks: The training images that are evaluated as well; None where nobody looked, and beside the first process of
            a run where they are reported alone.
        digests: What the images' bytes were seen to be.
    """

    content: SourceData
    split: Split
    labelled: ImageSet
    unlabelled: ImageSet
    validation: ImageSet | None
    leaks: Leaks | None = None
    digests: Digests = field(default_factory=Digests)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The settings by which images are chosen; see :class:`~layermatch.data.SemiSupervisedData`.

    Args:
        labelling: The way labels are drawn.
        storage: The place where images are kept.
        open_set: The classes that no label has, or the number of those that have labels; None leaves none out.
        leaks: What to do with training images that are evaluated as well: ``report``, ``remove`` or ``keep``.
        label_noise: The share of labelled images whose label is wrong, in ``[0, 1]``.
        pool_limit: The number of images of the pool that are trained on; None takes all.

    Raises:
        UserError: A value is out of range, or two exclude each other.
    """

    labelling: Labelling
    storage: Storage
    open_set: int | Sequence[int | str] | None = None
    leaks: str = "report"
    label_noise: float = 0.0
    pool_limit: int | None = None

    def __post_init__(self) -> None:
        check_choice("leaks", self.leaks, HANDLINGS)
        check_number("label_noise", self.label_noise, low=0, high=1)
        if self.pool_limit is not None:
            check_number("pool_limit", self.pool_limit, low=1, integer=True)
        fold = self.labelling.fold
        if self.open_set is not None and fold is not None:
            raise UserError(
                f"fold={fold} is not legal with open_set={self.open_set!r}: a fold has labels of every class: give "
                "fold=null and num_labels=NUMBER"
            )

    def draw(self, content: SourceData, given: Split | None) -> tuple[SourceData, Split]:
        """Draw the labels, or find again those of a given split, before any image is read.

        Args:
            content: The data set.
            given: A split that is used again; None draws one.

        Returns:
            The data set, whose classes are those that have labels, and the split.

        Raises:
            UserError: The settings exclude each other, or do not fit the data set or the split.
        """
        if self.open_set is not None:
            content = leave_classes_out(content, self.open_set)
        return content, self.labelling.split(content, given)

    def make(self, content: SourceData, split: Split, given: Split | None) -> Sets:
        """Read the images, and make the sets.

        Args:
            content: The data set of :meth:`draw`.
            split: The split of :meth:`draw`.
            given: The split that was used again; None where it was drawn.

        Raises:
            UserError: What is asked for cannot be had of images that are streamed, or of a given split.
        """
        self._check_streamed(content)
        if self.leaks != "remove":
            split, content = self._limited(split, content)
        # One process of the run says what it has seen; all must know what is removed.
        looks = self.leaks == "remove" or (self.leaks == "report" and is_rank_zero())
        if _is_streamed(content) or not (looks or self.storage.kind == "features"):
            return self._sets(_with_evaluated_held(self.storage.keep(content)), split)
        digests = Digests()
        kept = self.storage.keep(content, digests)
        if not looks:
            return replace(self._sets(kept, split), digests=digests)
        compared = Compared.of(kept, digests)
        if self.leaks == "remove":
            split = self._without_leaks(split, content, given, compared)
        found = compared.leaks(split, content, handling=self.leaks)
        if self.leaks == "remove":
            split = replace(split, left_out=tuple(compared.left_out(split).tolist()))
            split, kept = self._limited(split, compared.without(kept, split))
        return replace(self._sets(kept, split), leaks=found, digests=digests)

    def _check_streamed(self, content: SourceData) -> None:
        """Refuse what looks at every image where there may be more than memory has."""
        if not _is_streamed(content):
            return
        if self.storage.kind == "features":  # they are named by what is in all images
            raise UserError("storage=features is not legal where images are streamed: give storage=auto")
        if self.leaks == "remove":
            raise UserError(
                "leaks=remove is not legal where images are streamed, as it looks at all of them: give leaks=report or "
                "leaks=keep"
            )

    def _limited(self, split: Split, content: SourceData) -> tuple[Split, SourceData]:
        """Return the data set with the part of its pool that is asked for, after what else is left out of it."""
        if self.pool_limit is None:
            return split, content
        return limit_pool(split, content, pool_limit=self.pool_limit)

    def _without_leaks(self, split: Split, content: SourceData, given: Split | None, compared: Compared) -> Split:
        """Return the split, drawn again from images that are not evaluated; a given one with such images is refused."""
        if given is not None:
            compared.refuse(split, content, title=split.title)
            return split
        fold = None if self.labelling.fold is None else np.asarray(split.labelled, np.int64)
        rows = compared.drawable(beside=fold)
        if len(rows) < len(compared.pool):
            split = replace(self.labelling.split(content, None, among=rows), measured=split.measured)
        if fold is not None:
            compared.refuse(split, content, title=f"fold={self.labelling.fold}")
        return split

    def _sets(self, content: SourceData, split: Split) -> Sets:
        labelled = self._as_given(_held(_part(content.labelled, split.labelled)), content, split)
        name_classes_without_labels(labelled.labels, content.classes)
        validation = content.validation
        if split.validation:
            validation = _held(_part(content.labelled, split.validation))
        return Sets(
            content=content, split=split, labelled=labelled, unlabelled=_pool(content, split), validation=validation
        )

    def _as_given(self, labelled: ImageSet, content: SourceData, split: Split) -> ImageSet:
        """Return the labelled images with the labels that are learnt from, of which some may be wrong."""
        if not self.label_noise:
            return labelled
        labels = with_wrong_labels(
            labelled.labels, noise=self.label_noise, num_classes=len(content.classes), seed=split.seed
        )
        return ImageSet(labelled.images, labels)


def _is_streamed(content: SourceData) -> bool:
    return any(blocks_of(part.images) is not None for part in content.parts().values())


def _part(images: ImageSet, positions: Sequence[int]) -> ImageSet:
    index: NDArray[np.int64] = np.asarray(positions, np.int64)
    return ImageSet(take(images.images, index), images.labels[index])


def _pool(content: SourceData, split: Split) -> ImageSet:
    """Return the unlabelled pool: the training images that the split leaves to it, and the source's further images."""
    labels = content.labelled.labels.copy()
    # A network knows what it is trained on: those figures would say nothing of the pseudo-labels that matter.
    labels[np.asarray(split.labelled, np.int64)] = UNKNOWN
    pool = _part(ImageSet(content.labelled.images, labels), split.in_pool.tolist())
    more = content.unlabelled
    if more is None:
        return pool
    if blocks_of(more.images) is not None:
        pool = _held(pool)  # those few from each shard would each be a block
    images = ConcatImages([pool.images, more.images])
    if blocks_of(more.images) is not None:
        # Nobody knows the classes of those in shards: one number for all, as there may be more than memory has.
        return ImageSet(images, np.broadcast_to(unknown_labels(1), (len(images),)))
    return ImageSet(images, np.concatenate([pool.labels, more.labels]))


def _held(images: ImageSet) -> ImageSet:
    """Return images in memory, decoded once, where they would be streamed and are not many."""
    if blocks_of(images.images) is None or image_bytes(images.images) > HELD_BYTES:
        return images
    return ImageSet(
        ArrayImages(np.concatenate([images.images.read(rows) for rows in chunks_of(images.images)])), images.labels
    )


def _with_evaluated_held(content: SourceData) -> SourceData:
    validation, test = (None if part is None else _held(part) for part in (content.validation, content.test))
    return replace(content, validation=validation, test=test)
