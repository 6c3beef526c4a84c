"""Which images of the training pool are labelled, and which are held out for validation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.data.imbalance import Imbalance
from layermatch.errors import UserError, check_choice, check_number
from layermatch.files import replace_text
from layermatch.paths import expand

__all__ = ["Split", "check_measured", "draw_beside_fold", "make_split"]

#: The parts that validation images may come from.
VAL_FROM = ("labelled", "pool")
_SPLIT_STREAM = 1


@dataclass(frozen=True)
class Split:
    """Positions in a data set's training pool, and the images that are there.

    Attributes:
        seed: What the split was drawn with.
        pool_size: The number of images in the pool.
        labelled: The positions whose labels may be learnt from.
        validation: The positions held out; they are in neither the labelled nor the unlabelled images.
        names: The names of the labelled, then of the validation images, then of those in ``unlabelled``: files relative
            to the root; empty where images are no files.
        contents: The digests of the same images, ``""`` for one that was not looked into; empty where none was.
        pool: The number and digest of the names of all training files; empty where images are no files.
        unlabelled: The positions of a long-tailed unlabelled pool, which the labelled images are in beside these; empty
            where the pool is every image that is not held out.
        measured: The settings that were not given, and were chosen or measured by the images of the run that drew it:
            ``image_size``, ``mean`` and ``std`` by name, so that a run which goes on prepares its images as before.
        origin: The setting that it was read from, such as ``split=FILE``; empty for one made in this process.
        left_out: The positions that are not in the pool, as they are identical to images that are evaluated; they are
            found again at each start and not written.
    """

    seed: int
    pool_size: int
    labelled: tuple[int, ...]
    validation: tuple[int, ...]
    names: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    pool: str = ""
    unlabelled: tuple[int, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)
    left_out: tuple[int, ...] = field(default=(), compare=False)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.origin or "the given split"

    @property
    def positions(self) -> tuple[int, ...]:
        """Every position that it names, in the order of ``names``."""
        return (*self.labelled, *self.validation, *self.unlabelled)

    @property
    def in_pool(self) -> NDArray[np.int64]:
        """The positions of the unlabelled pool, in order."""
        left_out = np.asarray((*self.left_out, *self.validation), np.int64)
        if self.unlabelled:
            return np.setdiff1d(np.asarray((*self.labelled, *self.unlabelled), np.int64), left_out)
        return np.setdiff1d(np.arange(self.pool_size), left_out)

    @property
    def knows_its_images(self) -> bool:
        """Whether it holds more than positions, which is all that earlier versions wrote."""
        return bool(self.names or self.contents)

    def plain(self) -> dict[str, Any]:
        """Return the split as plain containers, for JSON and checkpoints."""
        values = {name: value for name, value in asdict(self).items() if name not in {"origin", "left_out"}}
        if not self.measured:
            del values["measured"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def of_plain(fields: Mapping[str, Any], *, origin: str) -> Split:
        """Return a split from what :meth:`plain` gave.

        Args:
            fields: The values by name; they may lack names and contents, as those of earlier versions do.
            origin: See :class:`Split`.

        Raises:
            KeyError, TypeError, ValueError: The values are not those of a split.
        """
        split = Split(
            seed=int(fields["seed"]),
            pool_size=int(fields["pool_size"]),
            labelled=tuple(int(i) for i in fields["labelled"]),
            validation=tuple(int(i) for i in fields["validation"]),
            names=tuple(str(name) for name in fields.get("names", ())),
            contents=tuple(str(content) for content in fields.get("contents", ())),
            pool=str(fields.get("pool", "")),
            unlabelled=tuple(int(i) for i in fields.get("unlabelled", ())),
            measured=check_measured(fields.get("measured", {})),
            origin=origin,
        )
        count = len(split.positions)
        if len(split.names) not in {0, count} or len(split.contents) not in {0, count}:
            raise ValueError(f"it has {count} images, {len(split.names)} names and {len(split.contents)} contents")
        return split

    def of_part(self, rows: NDArray[np.int64], *, pool_size: int) -> Split:
        """Return the same images, where this is a split of a part of a pool.

        Args:
            rows: ``(n,)``, the positions in the whole pool of the part's images.
            pool_size: The number of images in the whole pool.

        Example:
            >>> Split(0, 2, (1,), ()).of_part(np.array([3, 7]), pool_size=9).labelled
            (7,)
        """

        def in_whole(positions: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(rows[np.asarray(positions, np.int64)].tolist())

        return replace(
            self,
            pool_size=pool_size,
            labelled=in_whole(self.labelled),
            validation=in_whole(self.validation),
            unlabelled=in_whole(self.unlabelled),
        )

    def save(self, path: Path) -> None:
        """Write the split as JSON."""
        replace_text(path, json.dumps(self.plain()) + "\n")

    @staticmethod
    def load(path: str | Path, *, name: str = "split") -> Split:
        """Read a split written by :meth:`save`. Whether it fits a data set is to be seen.

        Args:
            path: The path of the file.
            name: The setting that gives the path, as the user writes it, for messages.

        Raises:
            UserError: There is no such file, or it is not a split.
        """
        file = expand(name, path, "a split.json")
        try:
            return Split.of_plain(json.loads(file.read_text(encoding="utf-8")), origin=f"{name}={path}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name}={path} is not a split file written by a run (split.json): {error}") from error

    def check(self, *, pool_size: int) -> None:
        """Refuse to be used with a data set that this is not a split of.

        Args:
            pool_size: The number of images in the pool of the data set.

        Raises:
            UserError: The split is of another pool, names an image twice, or has no labelled image.
        """
        positions = set(self.positions)
        if self.pool_size != pool_size or not positions <= set(range(pool_size)):
            raise UserError(f"{self.title} is of a pool of {self.pool_size} images, but this data set has {pool_size}")
        if len(positions) < len(self.positions):
            raise UserError(f"{self.title} names an image twice: labelled and validation must not overlap")
        if not self.labelled:
            raise UserError(
                f"{self.title} has no labelled images: give a split with at least one, mostly one for each class"
            )


def check_measured(given: object) -> dict[str, Any]:
    """Return what a split says of how images are prepared.

    Args:
        given: The field ``measured`` of a file.

    Returns:
        ``image_size`` as a whole number, ``mean`` and ``std`` as lists of numbers: those that are there.

    Raises:
        ValueError: They are not so.

    Example:
        >>> check_measured({"image_size": 32, "mean": [0.5]})
        {'image_size': 32, 'mean': [0.5]}
    """
    if not isinstance(given, Mapping):
        raise ValueError("what it says of the images' preparation is no mapping")
    known: dict[str, Any] = {}
    if "image_size" in given:
        known["image_size"] = int(given["image_size"])
    for name in ("mean", "std"):
        if name in given:
            known[name] = [float(number) for number in given[name]]
    return known


def make_split(
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    num_labels: int | None,
    num_val: int,
    val_from: str,
    seed: int,
    imbalance: Imbalance | None = None,
) -> Split:
    """Draw a class-balanced or long-tailed labelled set, and a stratified validation set.

    Every class is shuffled once; labelled images come from the front of that order and validation images of the pool
    from its back. So with one seed 40 labels are among the 250, and the validation set does not change with the budget.
    The images of a long-tailed pool follow the labelled ones.

    Args:
        labels: ``(N,)`` int64 in ``[0, num_classes)``, of the whole pool.
        num_classes: ``K``.
        num_labels: The number of labelled images in all, a multiple of ``K``; None takes every image.
        num_val: The number of images held out for validation, at least 0.
        val_from: ``labelled`` takes them from the ``num_labels`` images, so that fewer remain to learn from; ``pool``
            from the rest of the pool (the protocol's budgets are too small to spare any): their labels are used for
            evaluation alone.
        seed: A whole number, at least 0.
        imbalance: The long tails that are cut out of the pool; None is none.

    Returns:
        The split, positions sorted.

    Raises:
        UserError: The numbers do not fit the pool.

    Example:
        >>> split = make_split(np.arange(20) % 2, num_classes=2, num_labels=4, num_val=4, val_from="pool", seed=0)
        >>> len(split.labelled), len(split.validation)
        (4, 4)
    """
    check_choice("val_from", val_from, VAL_FROM)
    check_number("num_val", num_val, low=0, integer=True)
    check_number("seed", seed, low=0, integer=True)
    counts = np.bincount(labels, minlength=num_classes)
    per_class = _labels_per_class(num_labels, counts, imbalance)
    if imbalance is not None and val_from == "labelled" and num_val:
        raise UserError(
            "val_from=labelled is not legal with imbalance: its validation images would have a long tail as well: give "
            "val_from=pool"
        )
    # Shares of the whole pool, not of what is left of it: they must not change with the budget. Of labelled images,
    # each class keeps one to learn from.
    places = {"pool": (counts, counts - per_class), "labelled": (per_class, np.maximum(per_class - 1, 0))}
    parted, spare = places[val_from]
    val_per_class = _shares(parted, num_val)
    if (val_per_class > spare).any():
        source = (
            f"num_labels={int(per_class.sum())}"
            if val_from == "labelled"
            else f"{int(spare.sum())} images of the training pool that are not labelled"
        )
        other = next(name for name in VAL_FROM if name != val_from)
        most = {name: _most_held_out(*places[name]) for name in (val_from, other)}
        may_change = most[other] > 0 and (imbalance is None or other == "pool")
        raise UserError(
            f"num_val={num_val} is more than can be held out, each class in proportion, of {source} "
            f"(val_from={val_from}): give num_val={most[val_from]}{' at most' if most[val_from] else ''}"
            + (f", or val_from={other} with num_val={most[other]} at most" if may_change else "")
        )

    in_pool = None
    if imbalance is not None and imbalance.unlabelled is not None:
        in_pool = imbalance.pool_per_class(counts - per_class - val_per_class)
    labelled, validation, unlabelled = [], [], []
    for k, order in enumerate(_shuffled_classes(labels, num_classes, seed)):
        front, back = order[: per_class[k]], order[per_class[k] :]
        held_out = front if val_from == "labelled" else back
        cut = len(held_out) - val_per_class[k]
        validation.extend(held_out[cut:].tolist())
        labelled.extend((front[:cut] if val_from == "labelled" else front).tolist())
        if in_pool is not None:
            unlabelled.extend(back[: in_pool[k]].tolist())
    return Split(
        seed,
        len(labels),
        tuple(sorted(labelled)),
        tuple(sorted(validation)),
        unlabelled=tuple(sorted(unlabelled)),
    )


def draw_beside_fold(
    labels: NDArray[np.int64], *, fold: NDArray[np.int64], num_classes: int, num_val: int, seed: int
) -> Split:
    """Take a predefined labelled set, and draw a stratified validation set from the rest of the pool.

    Args:
        labels: ``(N,)`` int64 in ``[0, num_classes)``, of the whole pool.
        fold: ``(n,)`` int64, positions of the labelled images.
        num_classes: ``K``.
        num_val: The number of images held out for validation, at least 0.
        seed: A whole number, at least 0.

    Returns:
        The split, positions sorted.

    Raises:
        UserError: There are not so many other images.

    Example:
        >>> draw_beside_fold(np.arange(6) % 2, fold=np.array([0, 1]), num_classes=2, num_val=4, seed=0).validation
        (2, 3, 4, 5)
    """
    check_number("num_val", num_val, low=0, integer=True)
    check_number("seed", seed, low=0, integer=True)
    rest = np.setdiff1d(np.arange(len(labels)), fold)
    if num_val > len(rest):
        raise UserError(
            f"num_val={num_val} is more than can be held out: {len(rest)} images of the training pool are not in "
            f"the fold of {len(fold)} labels"
        )
    counts = np.bincount(labels[rest], minlength=num_classes)
    validation = []
    for order, count in zip(_shuffled_classes(labels[rest], num_classes, seed), _shares(counts, num_val), strict=True):
        validation.extend(rest[order[len(order) - count :]].tolist())
    return Split(seed, len(labels), tuple(sorted(fold.tolist())), tuple(sorted(validation)))


def _shuffled_classes(labels: NDArray[np.int64], num_classes: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the positions of each class, in random order."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPLIT_STREAM,)))
    return [generator.permutation(np.flatnonzero(labels == k)) for k in range(num_classes)]


def _labels_per_class(
    num_labels: int | None, counts: NDArray[np.int64], imbalance: Imbalance | None
) -> NDArray[np.int64]:
    if imbalance is not None and imbalance.labelled is not None:
        sizes = imbalance.labels_per_class(counts)
        if num_labels not in {None, int(sizes.sum())}:
            raise UserError(
                f"the imbalance labels {int(sizes.sum())} images, but num_labels={num_labels}: give num_labels=null"
            )
        return sizes
    num_classes, smallest = len(counts), int(counts.min())
    if num_labels is None:
        return counts
    legal = f"a multiple of the {num_classes} classes, from {num_classes} to {num_classes * smallest}"
    check_number("num_labels", num_labels, integer=True)
    if num_labels < num_classes:
        raise UserError(f"num_labels={num_labels} is below one label per class: give {legal}")
    if num_labels % num_classes:
        raise UserError(f"num_labels={num_labels} cannot be the same number for every class: give {legal}")
    if num_labels > num_classes * smallest:
        pool = f"a pool of {int(counts.sum())} images whose smallest class has {smallest}"
        raise UserError(f"num_labels={num_labels} is too many for {pool}: give {legal}")
    return np.full(num_classes, num_labels // num_classes)


def _shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Part ``total`` in proportion to ``counts``, in whole numbers (largest remainder)."""
    exact = counts * (total / max(int(counts.sum()), 1))
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    for k in np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]:
        shares[k] += 1
    return shares


def _most_held_out(counts: NDArray[np.int64], spare: NDArray[np.int64]) -> int:
    """Return how many images at most can be held out in proportion to ``counts``, where ``spare`` may be."""
    classes = counts > 0
    # A share is its part rounded up at most: beyond this, some class has too many whatever is rounded down.
    most = int(min(((spare + 1) * counts.sum())[classes] // counts[classes], default=0))
    numbers = range(min(most, int(spare.sum())), 0, -1)
    return next((number for number in numbers if (_shares(counts, number) <= spare).all()), 0)
