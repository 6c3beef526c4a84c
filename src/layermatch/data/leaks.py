"""Training images that are byte-identical to images that a run is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.data.digests import Digests
from layermatch.data.images import take
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.sources.base import shorten
from layermatch.data.splits import Split
from layermatch.data.wording import printable
from layermatch.errors import UserError

__all__ = ["HANDLINGS", "Compared", "Leaks"]

#: What ``data.leaks`` may be.
HANDLINGS = ("report", "remove", "keep")

#: Pairs of images that are named.
_EXAMPLES = 10
_SHOWN = 2

_Digests = NDArray[np.uint64]
_Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Leaks:
    """How many images are trained on, or would be, and evaluated on as well.

    An image that is identical to a test image and to a validation image counts as both.

    Attributes:
        handling: ``report``, where the images are trained on all the same, or ``remove``, where they are not.
        evaluated: The sets that there are, ``test`` and ``validation``.
        labelled: The number of labelled images that are identical to an image of each of these sets, by the set's name.
        unlabelled: The same of the images of the unlabelled pool that are not labelled; with ``remove``, of all that
            were taken out of the training pool.
        validation: The same of the validation images, to test images.
        examples: Up to ten images: ``labelled`` or ``unlabelled``, its name, and that of one that it is identical to.
        own_validation: Whether the data set has its validation images of its own: they are of no pool, and stay.
    """

    handling: str
    evaluated: tuple[str, ...]
    labelled: dict[str, int]
    unlabelled: dict[str, int]
    validation: dict[str, int]
    examples: tuple[tuple[str, str, str], ...] = ()
    own_validation: bool = False

    def plain(self, *, uses_unlabelled: bool) -> dict[str, Any]:
        """Return the figures as plain containers, for ``results.json``, with the text.

        Args:
            uses_unlabelled: Whether the method trains on the unlabelled pool.
        """
        lists = {"evaluated": list(self.evaluated), "examples": [list(example) for example in self.examples]}
        return {"text": self.text(uses_unlabelled=uses_unlabelled)} | asdict(self) | lists

    def text(self, *, uses_unlabelled: bool) -> str:
        """Return one line for people.

        Args:
            uses_unlabelled: Whether the method trains on the unlabelled pool.

        Example:
            >>> counts = {"test": 2, "validation": 0}
            >>> none = {"test": 0, "validation": 0}
            >>> Leaks("report", ("test", "validation"), none, counts, {"test": 0}).text(uses_unlabelled=True)
            'byte-identical to test images: 2 unlabelled: leaks=remove takes them out'
        """
        groups = {"labelled": self.labelled, "unlabelled": self.unlabelled, "validation": self.validation}
        stays = ""
        if self.handling == "remove" or self.own_validation:  # what is left of these stays
            twins = groups.pop("validation").get("test", 0)
            stays = f"{twins:,} validation images are byte-identical to test images, and stay" if twins else ""
        if not uses_unlabelled:
            del groups["unlabelled"]
        found = {
            of: [f"{count:,} {group}" for group, counts in groups.items() if (count := counts.get(of))]
            for of in self.evaluated
        }
        if not any(found.values()):
            return stays or f"none: no training image is byte-identical to a {' or '.join(self.evaluated)} image"
        shown = [f"{printable(one)} = {printable(other)}" for group, one, other in self.examples if group in groups]
        names = f" ({', '.join(shown[:_SHOWN])}{', ...' if len(shown) > _SHOWN else ''})" if shown else ""
        told = "; ".join(f"to {of} images: {', '.join(counts)}" for of, counts in found.items() if counts)
        taken = f"byte-identical {told}{names}: leaks=remove takes them out"
        if self.handling == "remove":
            taken = f"taken out of the training pool, as they are byte-identical {told}{names}"
        return f"{taken}; {stays}" if stays else taken


@dataclass(frozen=True, eq=False)
class Compared:
    """The digests of a data set's images, part by part.

    Args:
        pool: ``(N,)``, of the pool that labels are drawn from.
        further: ``(M,)``, of the images that come without a label.
        test: ``(T,)``, of the test images.
        validation: ``(V,)``, of the validation images that the data set has of its own.
    """

    pool: _Digests
    further: _Digests
    test: _Digests
    validation: _Digests

    @staticmethod
    def of(content: SourceData, digests: Digests) -> Compared:
        """Compute the digests that are not known.

        Args:
            content: A data set.
            digests: The digests that are known; it gets the others.
        """
        none = np.empty(0, np.uint64)
        return Compared(
            pool=digests.of(content.labelled.images),
            further=none if content.unlabelled is None else digests.of(content.unlabelled.images),
            test=none if content.test is None else digests.of(content.test.images),
            validation=none if content.validation is None else digests.of(content.validation.images),
        )

    def drawable(self, *, beside: _Rows | None = None) -> _Rows:
        """Return the positions of the pool that labelled and validation images may be drawn from without a leak.

        Of identical images the first one may be drawn, and none that is a test image, or one of the data set's own
        validation images.

        Args:
            beside: ``(n,)``, positions that are labelled already; they are among those that are returned.
        """
        _, first = np.unique(self.pool, return_index=True)
        evaluated = np.concatenate([self.test, self.validation])
        rows = np.sort(first)[~np.isin(self.pool[np.sort(first)], evaluated)]
        if beside is None:
            return rows
        return np.union1d(rows[~np.isin(self.pool[rows], self.pool[beside])], beside)

    def left_out(self, split: Split) -> _Rows:
        """Return the positions of the pool that are neither drawn nor left in it: identical to evaluated images."""
        found = np.isin(self.pool, self._evaluated(split))
        found[_rows(split.validation)] = False
        return np.flatnonzero(found)

    def without(self, content: SourceData, split: Split) -> SourceData:
        """Return the data set without the further images that are identical to evaluated ones."""
        more = content.unlabelled
        is_left = ~np.isin(self.further, self._evaluated(split))
        if more is None or is_left.all():
            return content
        rows, ids = np.flatnonzero(is_left), dict(content.image_ids)
        if "unlabelled" in ids:
            ids["unlabelled"] = tuple(ids["unlabelled"][row] for row in rows)
        if not len(rows):
            ids.pop("unlabelled", None)
            return replace(content, unlabelled=None, image_ids=ids)
        left = ImageSet(take(more.images, rows), more.labels[rows])
        return replace(content, unlabelled=left, image_ids=ids)

    def refuse(self, split: Split, content: SourceData, *, title: str) -> None:
        """Refuse labels that were not drawn here and cannot be learnt without a leak.

        Args:
            split: The split.
            content: The data set.
            title: What said which images are labelled, for the message.

        Raises:
            UserError: A labelled image is identical to an evaluated one, or a validation image to a test image.
        """
        labelled, validation = _rows(split.labelled), _rows(split.validation)
        wrong = np.concatenate(
            [
                labelled[np.isin(self.pool[labelled], self._evaluated(split))],
                validation[np.isin(self.pool[validation], self.test)],
            ]
        )
        if len(wrong):
            names = [printable(content.image_id("labelled", row)) for row in wrong.tolist()]
            raise UserError(
                f"leaks=remove is not legal with {title}: {len(wrong):,} of its labelled and validation images "
                f"are byte-identical to images that are evaluated ({shorten(names, 3)}): give leaks=report, or "
                "labels that are drawn"
            )

    def leaks(self, split: Split, content: SourceData, *, handling: str) -> Leaks:
        """Count the leaks.

        Args:
            split: The split, before anything is left out.
            content: The data set.
            handling: ``report`` or ``remove``.
        """
        labelled = _rows(split.labelled)
        others = np.setdiff1d(split.in_pool, labelled)
        if handling == "remove":  # those that were never drawn, too
            others = np.setdiff1d(np.arange(split.pool_size), [*split.labelled, *split.validation])
        evaluated = {"test": self.test, "validation": self._held_out(split)}
        evaluated = {name: digests for name, digests in evaluated.items() if len(digests)}
        further = np.concatenate([self.pool[others], self.further])
        return Leaks(
            handling,
            tuple(evaluated),
            labelled={name: _count(self.pool[labelled], digests) for name, digests in evaluated.items()},
            unlabelled={name: _count(further, digests) for name, digests in evaluated.items()},
            validation={"test": _count(self._held_out(split), self.test)},
            examples=self._examples(split, content, others=others),
            own_validation=not split.validation and len(self.validation) > 0,
        )

    def _held_out(self, split: Split) -> _Digests:
        """Return the digests of the validation images: those of a split, else the data set's own."""
        return self.pool[_rows(split.validation)] if split.validation else self.validation

    def _evaluated(self, split: Split) -> _Digests:
        return np.concatenate([self.test, self._held_out(split)])

    def _examples(self, split: Split, content: SourceData, *, others: _Rows) -> tuple[tuple[str, str, str], ...]:
        """Return some training images: what they are, their names, and that of an evaluated one identical to each."""
        labelled = _rows(split.labelled)
        held_out = [("labelled", row) for row in split.validation] or _places("validation", self.validation)
        places = held_out + _places("test", self.test)
        evaluated = np.concatenate([self._held_out(split), self.test])
        found = []
        for group, part, digests, rows in (
            ("labelled", "labelled", self.pool[labelled], labelled),
            ("unlabelled", "labelled", self.pool[others], others),
            ("unlabelled", "unlabelled", self.further, np.arange(len(self.further))),
        ):
            for at in np.flatnonzero(np.isin(digests, evaluated))[:_EXAMPLES].tolist():
                twin = places[int(np.flatnonzero(evaluated == digests[at])[-1])]
                found.append((group, content.image_id(part, int(rows[at])), content.image_id(*twin)))
        return tuple(found[:_EXAMPLES])


def _places(part: str, digests: _Digests) -> list[tuple[str, int]]:
    return [(part, row) for row in range(len(digests))]


def _rows(positions: Sequence[int]) -> _Rows:
    return np.asarray(positions, np.int64)


def _count(digests: _Digests, evaluated: _Digests) -> int:
    return int(np.isin(digests, evaluated).sum())
