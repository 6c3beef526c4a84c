"""What to do about labels: how many to begin with, how many to hold out, and how well an accuracy will be known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermatch.check.reading import Content
from layermatch.components import section_of_errors
from layermatch.data.splits import make_split
from layermatch.errors import UserError

__all__ = ["EVALUATED", "Asked", "advice", "refusal"]

#: Parts that say how well it was learnt.
EVALUATED = ("validation", "test")

#: Settings of ``data`` beside which labels are drawn in another way.
_OTHERS = ("split", "fold", "imbalance", "open_set")


@dataclass(frozen=True)
class Asked:
    """The settings of a run that say which labels it draws; whether they are legal shows when they are drawn.

    Args:
        num_labels: The number of labelled images; None takes every label.
        num_val: The number of images that are held out for validation.
        val_from: The part that they come from.
        is_known: Whether these three say it alone.
    """

    num_labels: Any = None
    num_val: Any = 0
    val_from: Any = "pool"
    is_known: bool = True

    @staticmethod
    def of(module: Mapping[str, Any]) -> Asked:
        """Return what the settings of the data module ask for.

        Args:
            module: The options of :class:`~layermatch.data.SemiSupervisedData`.
        """
        given = {name: module[name] for name in ("num_labels", "num_val", "val_from") if name in module}
        return Asked(**given, is_known=not any(_is_given(module.get(name)) for name in _OTHERS))

    def words(self) -> str:
        """Return the settings as words of the command line, but for those that are a run's defaults."""
        labels = [] if self.num_labels is None else [f"data.num_labels={self.num_labels}"]
        where = [] if self.val_from == "pool" else [f"data.val_from={self.val_from}"]
        return " ".join([*labels, f"data.num_val={self.num_val}", *where])


def _is_given(value: object) -> bool:
    return any(map(_is_given, value.values())) if isinstance(value, Mapping) else value not in (None, False)


def refusal(content: Content, asked: Asked) -> str:
    """Return why a run would refuse to draw its labels; empty where it would not.

    Args:
        content: The data set.
        asked: What the run is asked to draw.
    """
    if not asked.is_known:
        return ""
    own = content.parts.get("validation")
    if own is not None and asked.num_val:
        return (
            f"data.num_val={asked.num_val}: this data set has {len(own):,} validation images of its own: give "
            "data.num_val=0"
        )
    try:
        with section_of_errors("data", ("num_labels", "num_val", "val_from")):
            make_split(
                content.parts["labelled"].labels,
                num_classes=len(content.classes),
                num_labels=asked.num_labels,
                num_val=asked.num_val,
                val_from=asked.val_from,
                seed=0,
            )
    except UserError as error:
        return str(error)
    return ""


def advice(content: Content, counts: Mapping[str, Sequence[int]], asked: Asked) -> Iterable[str]:
    """Return how many labels to begin with, and how well an accuracy will be known.

    Args:
        content: The data set; there is no advice for one that a run refuses.
        counts: Images of each class by part, in the order of the classes.
        asked: What a run is asked to draw.
    """
    num_classes = len(content.classes)
    labelled = counts["labelled"][:num_classes]
    if content.refusals or min(labelled, default=0) == 0:
        return
    smallest, total = min(labelled), sum(labelled)
    pool = total + sum(len(content.parts[part]) for part in ("unlabelled",) if part in content.parts)
    yield (
        f"There are {total:,} labels for {num_classes} classes, {smallest:,} of the rarest, and {pool:,} images to "
        f"learn from. Papers of the field report 4, 25 and 400 labels a class; {_budget(smallest, num_classes)}"
    )
    if pool < 2 * total and smallest > 25:
        yield (
            "Most images have a label already: compare with algorithm=supervised on all of them before anything else, "
            "as unlabelled images can add little then."
        )
    for part in EVALUATED:
        if part in content.parts:
            known = sum(counts[part][:num_classes])
            if known:
                yield f"An accuracy on the {known:,} {part} images is known to {_precision(known)}."
    if "validation" not in content.parts and asked.is_known and not refusal(content, asked):
        yield _validation(content, smallest, asked)


def _validation(content: Content, smallest: int, asked: Asked) -> str:
    """Return what is, or would be, held out for validation."""
    if asked.num_val:
        return (
            f"An accuracy on the {asked.num_val:,} validation images that data.num_val holds out is known to "
            f"{_precision(asked.num_val)}."
        )
    num_classes = len(content.classes)
    num_val = num_classes * max(1, min(smallest // 5, math.ceil(400 / num_classes)))
    first = _first_budget(smallest)
    num_labels = first * num_classes if first and asked.num_labels is None else asked.num_labels
    ways = [Asked(num_labels, num_val), Asked(asked.num_labels, num_val, "labelled")]
    if "unlabelled" in content.parts:  # what is labelled there was labelled to learn from, all of it
        ways.reverse()
    way = next((each for each in ways if not refusal(content, each)), None)
    if way is None:
        return "There are no validation images, and too few labels to hold any out."
    where = " of the labelled ones" if way.val_from == "labelled" else ""
    return (
        f"There are no validation images: {way.words()} would hold out {num_val:,} images{where}, each class in "
        f"proportion, by which a checkpoint's accuracy is known to {_precision(num_val)}."
    )


def _first_budget(smallest: int) -> int | None:
    """Return the labels of each class to begin with, of the usual numbers; None where there are fewer."""
    return next((each for each in (25, 4) if each <= smallest), None)


def _budget(smallest: int, num_classes: int) -> str:
    """Return the budget to begin with, of the usual ones that the rarest class allows."""
    first = _first_budget(smallest)
    if first is None:
        return f"here all {smallest} a class are few, so expect results to differ much between seeds."
    return (
        f"the rarest class allows up to {400 if smallest >= 400 else first}, and data.num_labels={first * num_classes} "
        f"({first} a class) shows within a day whether more are needed."
    )


def _precision(count: int) -> str:
    """Compute half the width of a 95 % interval of a share near 90 %, in percentage points."""
    return f"\N{PLUS-MINUS SIGN}{196 * math.sqrt(0.9 * 0.1 / count):.1f} points (95 %, where it is near 90 %)"
