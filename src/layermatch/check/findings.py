"""What is to be said of a data set: counts, sizes, what is there twice, and what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.check.advice import EVALUATED, Asked, advice, refusal
from layermatch.check.looking import Looks
from layermatch.check.near import first_near
from layermatch.check.reading import Content
from layermatch.data.sources.base import UNKNOWN, shorten
from layermatch.data.wording import look_alikes_text, printable

__all__ = ["Finding", "Inspection", "Pair", "Where", "inspect"]

#: Parts that are learnt from.
LEARNT = ("labelled", "unlabelled")

#: Copies in few pixels that differ by less on average, of 255, are of one picture; ours.
_SAME_TINT = 10.0

#: A hash that so many different pictures share says nothing of them: they are as plain as a wall.
_SHARED_BY = 200

#: The pairs whose small copies are compared together: some tens of megabytes.
_PAIRS_AT_ONCE = 1 << 16

#: Of a pair of classes, the larger may have so many times the images of the smaller before it is said.
_BALANCED = 3.0

#: How many examples a finding has.
_EXAMPLES = 5


@dataclass(frozen=True, order=True)
class Where:
    """An image.

    Attributes:
        part: The part that it is in.
        row: Its position there.
    """

    part: str
    row: int


@dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
        first: The one of them that comes first.
        second: The other one.
        distance: The bits of their hashes that differ; None where their pixels are equal.
    """

    first: Where
    second: Where
    distance: int | None

    @property
    def leaks(self) -> bool:
        """Whether one of the two is learnt from and the other evaluated on, or both are evaluated on in two parts."""
        parts = {self.first.part, self.second.part}
        return len(parts) == 2 and not parts <= set(LEARNT)


@dataclass(frozen=True)
class Finding:
    """Something to know.

    Attributes:
        kind: A word or two.
        text: What it is, in a sentence.
        examples: Some of it.
        is_problem: Whether it is to be dealt with before training.
    """

    kind: str
    text: str
    examples: tuple[str, ...] = ()
    is_problem: bool = True


@dataclass(frozen=True, eq=False)
class Inspection:
    """All that was found.

    Attributes:
        content: The data set.
        looks: What was seen of each part.
        counts: Images of each class by part, in the order of the classes; the last number is of unknown class.
        pairs: Pairs that show the same, those that leak first; of several equal ones each with the first, and each that
            only looks like others with the first of each part.
        findings: Problems first.
        advice: What to do about labels, in sentences.
        distance: The bits by which hashes of one picture may differ.
    """

    content: Content
    looks: Mapping[str, Looks]
    counts: Mapping[str, tuple[int, ...]]
    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    distance: int

    @property
    def problems(self) -> list[Finding]:
        """The findings that are to be dealt with."""
        return [one for one in self.findings if one.is_problem]

    def name(self, where: Where) -> str:
        """Return the name of an image."""
        return self.content.names[where.part][where.row]

    def label(self, where: Where) -> str:
        """Return the class of an image; empty where it is unknown."""
        label = int(self.content.parts[where.part].labels[where.row])
        return "" if label == UNKNOWN else self.content.classes[label]

    def plain(self) -> dict[str, Any]:
        """Return all of it as plain containers, for JSON."""
        names = [*self.content.classes, ""]
        return {
            "problems": len(self.problems),
            "findings": [
                {"kind": one.kind, "problem": one.is_problem, "text": one.text, "examples": list(one.examples)}
                for one in self.findings
            ],
            "advice": list(self.advice),
            "images": {part: len(images) for part, images in self.content.parts.items()},
            "classes": {
                part: {name: count for name, count in zip(names, counts, strict=True) if name or count}
                for part, counts in self.counts.items()
            },
            "sizes": {part: _sizes_plain(looks) for part, looks in self.looks.items()},
            "unreadable": [
                {"path": self.name(Where(part, row)), "reason": reason}
                for part, looks in self.looks.items()
                for row, reason in looks.reasons.items()
            ],
            "distance": self.distance,
            "same": [
                {
                    "paths": [self.name(pair.first), self.name(pair.second)],
                    "parts": [pair.first.part, pair.second.part],
                    "classes": [self.label(pair.first), self.label(pair.second)],
                    "distance": pair.distance,
                    "leaks": pair.leaks,
                }
                for pair in self.pairs
            ],
            "notes": dict(self.content.notes),
        }


def _sizes_plain(looks: Looks) -> dict[str, Any]:
    sizes = looks.sizes[looks.is_whole]
    if not len(sizes):
        return {}
    short, ratio = sizes.min(axis=1), sizes.max(axis=1) / sizes.min(axis=1)
    return {
        "short_side": {"min": int(short.min()), "median": float(np.median(short)), "max": int(short.max())},
        "long_to_short": {"median": round(float(np.median(ratio)), 3), "max": round(float(ratio.max()), 3)},
        "different": len(np.unique(sizes, axis=0)),
    }


def inspect(content: Content, looks: Mapping[str, Looks], *, distance: int, asked: Asked | None = None) -> Inspection:
    """Say what is to be said of a data set.

    Args:
        content: The data set.
        looks: What was seen of each of its parts.
        distance: The bits by which hashes of one picture may differ, from 0 to 15.
        asked: What a run would be asked to draw; None is a run's defaults.
    """
    asked = asked or Asked()
    counts = {part: _counts(images.labels, len(content.classes)) for part, images in content.parts.items()}
    equal = _equal_pairs(looks)
    near, plain = _near_pairs(looks, distance)
    pairs = sorted(
        [*equal, *near], key=lambda pair: (not pair.leaks, pair.distance is not None, pair.first, pair.second)
    )
    found = Inspection(content, looks, counts, tuple(pairs), (), tuple(advice(content, counts, asked)), distance)
    findings = [
        *_refusals(content, asked),
        *_unreadable(found),
        *_same(found),
        *_classes(found),
        *_sizes(found),
        *_notes(content, plain),
    ]
    findings.sort(key=lambda one: not one.is_problem)
    return Inspection(content, looks, counts, found.pairs, tuple(findings), found.advice, distance)


def _counts(labels: NDArray[np.int64], num_classes: int) -> tuple[int, ...]:
    numbers = np.where(labels == UNKNOWN, num_classes, labels)
    return tuple(np.bincount(numbers, minlength=num_classes + 1).tolist())


# ------------------------------------------------------------------------------------------------------- what is twice


def _everywhere(looks: Mapping[str, Looks]) -> list[Where]:
    """Return all images that can be read, in one order: what is learnt from first."""
    return [Where(part, row) for part, seen in looks.items() for row in np.flatnonzero(seen.is_whole).tolist()]


def _equal_groups(looks: Mapping[str, Looks]) -> Iterable[list[Where]]:
    """Return the images whose decoded pixels are equal, by these, in the order of their first ones."""
    groups: dict[bytes, list[Where]] = defaultdict(list)
    for where in _everywhere(looks):
        groups[looks[where.part].digests[where.row]].append(where)
    return groups.values()


def _equal_pairs(looks: Mapping[str, Looks]) -> list[Pair]:
    """Find images whose decoded pixels are equal, each with the first such one, and with the first of another part."""
    pairs = []
    for group in _equal_groups(looks):
        for number, where in enumerate(group[1:], start=1):
            pairs.append(Pair(group[0], where, None))
            other = next(
                (one for one in group[1:number] if one.part != where.part and Pair(one, where, None).leaks), None
            )
            if other is not None and not pairs[-1].leaks:
                pairs.append(Pair(other, where, None))
    return pairs


def _near_pairs(looks: Mapping[str, Looks], distance: int) -> tuple[list[Pair], int]:
    """Find images of different pixels that show the same, and count the pictures that are too plain to say so.

    Each image is with the first one of each part that it looks like: all pairs of the frames of a camera that stands
    still would be half their square.
    """
    # Of equal ones, one of each part is compared, for all of them.
    groups: dict[tuple[bytes, str], list[Where]] = defaultdict(list)
    for where in _everywhere(looks):
        groups[looks[where.part].digests[where.row], where.part].append(where)
    equal = list(groups.values())
    places = [group[0] for group in equal]
    hashes = np.array([looks[where.part].hashes[where.row] for where in places], np.uint64)
    _, inverse, shared_by = np.unique(hashes, return_inverse=True, return_counts=True)
    telling = np.flatnonzero(shared_by[inverse] <= _SHARED_BY)
    near = telling[_first_near(looks, [places[row] for row in telling], hashes[telling], distance)]
    pairs = []
    for row, other in near.tolist():
        bits = int(np.bitwise_count(hashes[row] ^ hashes[other]))
        pairs += [Pair(places[row], where, bits) for where in equal[other]]
    return pairs, len(places) - len(telling)


def _first_near(
    looks: Mapping[str, Looks], places: Sequence[Where], hashes: NDArray[np.uint64], distance: int
) -> NDArray[np.int64]:
    """Return each place with the first one of each part that shows the same: ``(P, 2)``.

    Their pixels differ, their hashes hardly do, and neither do small copies of them.
    """
    order = {part: number for number, part in enumerate(looks)}
    parts = np.array([order[where.part] for where in places], np.int64)
    numbers: dict[bytes, int] = {}
    digests = np.array(
        [numbers.setdefault(looks[where.part].digests[where.row], len(numbers)) for where in places], np.int64
    )
    tints = np.array([looks[where.part].tints[where.row] for where in places], np.uint8)

    def is_same(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        same = np.empty(len(pairs), np.bool_)
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            one, other = pairs[start : start + _PAIRS_AT_ONCE].T
            difference = np.abs(tints[one].astype(np.int16) - tints[other]).mean(axis=(1, 2, 3))
            same[start : start + _PAIRS_AT_ONCE] = (digests[one] != digests[other]) & (difference < _SAME_TINT)
        return same

    return first_near(hashes, parts, distance=distance, is_same=is_same)


def _same(found: Inspection) -> Iterable[Finding]:
    for is_exact, is_leak in ((True, True), (False, True), (True, False), (False, False)):
        by_parts: dict[tuple[str, str], list[Pair]] = defaultdict(list)
        for pair in found.pairs:
            if (pair.distance is None) == is_exact and pair.leaks == is_leak:
                by_parts[pair.first.part, pair.second.part].append(pair)
        for (first, second), pairs in by_parts.items():
            count = len({pair.second for pair in pairs})
            has, looks = ("has", "looks") if count == 1 else ("have", "look")
            article = "an" if first[0] in "aeiou" else "a"
            other = f"another {second}" if first == second else f"{article} {first}"
            text = f"{count:,} {second} image{'s' * (count > 1)} " + (
                f"{has} the pixels of {other} one"
                if is_exact
                else f"{looks} like {other} one (hashes differ in {found.distance} of 64 bits at most)"
            )
            if is_leak:
                text = f"{text}: what is measured on {'it' if count == 1 else 'them'} is too good"
            kind = f"leak into {second}" if is_leak else "duplicates"
            yield Finding(kind, text, _shown(found, pairs), is_problem=is_leak)
    yield from _contradictions(found)


def _contradictions(found: Inspection) -> Iterable[Finding]:
    pairs = []
    for group in _equal_groups(found.looks):
        known = [where for where in group if found.label(where)]
        pairs += [Pair(known[0], where, None) for where in known[1:] if found.label(where) != found.label(known[0])]
    if pairs:
        one = len(pairs) == 1
        text = f"{len(pairs):,} image{'' if one else 's'} {'has' if one else 'have'} the pixels of one of another class"
        yield Finding("contradicting labels", text, _shown(found, pairs))


def _shown(found: Inspection, pairs: Sequence[Pair]) -> tuple[str, ...]:
    return tuple(
        " = ".join(_with_class(found, where) for where in (pair.first, pair.second)) for pair in pairs[:_EXAMPLES]
    )


def _with_class(found: Inspection, where: Where) -> str:
    name, label = printable(found.name(where)), found.label(where)
    return f"{name} ({printable(label)})" if label and f"/{label}/" not in f"/{name}" else name


# -------------------------------------------------------------------------------------------------------- what is wrong


def _refusals(content: Content, asked: Asked) -> Iterable[Finding]:
    texts = content.refusals or ([text] if (text := refusal(content, asked)) else [])
    return [Finding("refused by a run", text) for text in texts]


def _unreadable(found: Inspection) -> Iterable[Finding]:
    bad = [
        f"{printable(found.name(Where(part, row)))}: {reason}"
        for part, looks in found.looks.items()
        for row, reason in looks.reasons.items()
    ]
    if bad:
        text = f"{len(bad):,} file{'s' * (len(bad) > 1)} cannot be read: a run refuses to start until they are gone"
        yield Finding("unreadable", text, tuple(bad[:_EXAMPLES]))


def _classes(found: Inspection) -> Iterable[Finding]:
    classes = found.content.classes
    labelled = np.array(found.counts["labelled"][: len(classes)])
    empty = [classes[k] for k in np.flatnonzero(labelled == 0)]
    if empty and not found.content.refusals:
        yield Finding("classes without labels", f"no labelled image is of {shorten([printable(n) for n in empty])}")
    alike = [text for place, name in enumerate(classes) for text in look_alikes_text([name], classes[:place])]
    if alike and not any("look alike" in text for text in found.content.refusals):
        yield Finding("class names", "; ".join(alike[:_EXAMPLES]))
    for part in EVALUATED:
        if part in found.counts:
            counts = np.array(found.counts[part][: len(classes)])
            without = [printable(classes[k]) for k in np.flatnonzero((counts == 0) & (labelled > 0))]
            if without:
                yield Finding("classes not evaluated", f"no {part} image is of {shorten(without)}", is_problem=False)
    some = labelled[labelled > 0]
    if len(some) and some.max() > _BALANCED * some.min():
        large, small = int(labelled.argmax()), int(np.where(labelled > 0, labelled, labelled.max()).argmin())
        text = (
            f"{printable(classes[large])} has {labelled[large]:,} images and {printable(classes[small])} "
            f"{labelled[small]:,}, {labelled[large] / labelled[small]:.1f} times as many: look at each class's accuracy"
        )
        yield Finding("imbalance", text, is_problem=False)


def _sizes(found: Inspection) -> Iterable[Finding]:
    sizes = np.concatenate([looks.sizes[looks.is_whole] for looks in found.looks.values()])
    if not len(sizes):
        return
    ratio = sizes.max(axis=1) / sizes.min(axis=1)
    narrow = int((ratio > 2).sum())
    if narrow:
        text = (
            f"{narrow:,} of {len(sizes):,} images are more than twice as long as wide: the square in the middle, which "
            "is all that a network sees, leaves more than half out"
        )
        yield Finding("long images", text, is_problem=False)


def _notes(content: Content, plain: int) -> Iterable[Finding]:
    for kind, text in content.notes.items():
        yield Finding(kind, text, is_problem=False)
    if plain:
        text = f"{plain:,} images are so plain that their hashes say nothing: they were compared by pixels alone"
        yield Finding("plain images", text, is_problem=False)
