"""What a metric is, and a catalogue of metrics; the one of this package is :mod:`layermatch.metrics`.

This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from layermatch.text import printable

__all__ = ["KINDS", "ROW_LENGTH", "Catalogue", "Kind", "Metric", "Panel", "Place", "Section", "dumps", "loads"]

#: What a log line has of the steps since the one before.
MEAN, RATIO, NOW, EVALUATION, END = "mean", "ratio of sums", "as it is then", "an evaluation", "none: at the end"

#: Longest name of a row in the narrow tables of terminals.
ROW_LENGTH = 26


class Section(StrEnum):
    """The section in which the report's page draws the curves of a metric."""

    NONE = ""
    ACCURACY = "accuracy"
    LOSSES = "losses"
    QUALITY = "pseudo-labels"
    CLASSES = "pseudo-labels, by class"
    LAYERS = "layers"
    OTHER = "everything else"


class Place(StrEnum):
    """What else shows a metric."""

    RESULTS = "results.json"
    TABLE = "table of results"
    WATCH = "watch"


@dataclass(frozen=True)
class Kind:
    """What the values of a metric are, and how they are written.

    Args:
        name: The name that the kind is known by.
        unit: What is counted; empty for a plain number and for a share.
        scale: The scale of an axis: ``linear``; ``log`` where values may span decades; ``share`` for what lies in
            ``[0, 1]``.
        over_run: The value that a dashboard keeps of a run's curve: ``last``, ``min``, ``max``, ``mean``.
        is_rounded: Whether a one-line display writes whole per cents.
    """

    name: str
    unit: str = ""
    scale: str = "linear"
    over_run: tuple[str, ...] = ("last",)
    is_rounded: bool = False

    @property
    def is_share(self) -> bool:
        """Whether tables and charts write per cents, and differences in percentage points."""
        return self.scale == "share"

    def brief(self, value: float) -> str:
        """Write a value in at most five letters, if it is below 10,000.

        Example:
            >>> SHARE.brief(0.987), ACCURACY.brief(0.987), LOSS.brief(1234.5), LOSS.brief(123456.0)
            ('99%', '0.987', '1234', '1e+05')
        """
        if self.is_rounded:
            return f"{value:.0%}"
        return f"{value:.3f}"[:5].rstrip(".") if abs(value) < 1e4 else f"{value:.0e}"


LOSS = Kind("loss", over_run=("min", "last"))
ACCURACY = Kind("accuracy", scale="share", over_run=("max", "last"))
SHARE = Kind("share", scale="share", is_rounded=True)
VALUE = Kind("value")
RATE = Kind("rate")
COUNT = Kind("count")
SIZE = Kind("size", scale="log")
COSINE = Kind("cosine")
ENTROPY = Kind("entropy", unit="nats")
TIME = Kind("time", unit="s per step", over_run=("mean",))
MEMORY = Kind("memory", unit="GiB", over_run=("max",))
PICTURE = Kind("picture")

KINDS = {
    kind.name: kind
    for kind in (LOSS, ACCURACY, SHARE, VALUE, RATE, COUNT, SIZE, COSINE, ENTROPY, TIME, MEMORY, PICTURE)
}


@dataclass(frozen=True)
class Panel:
    """One set of axes in a picture of a run.

    Args:
        figure: The name of the picture, which is ``figures/FIGURE.png``.
        title: The title above the axes.
    """

    figure: str
    title: str


@dataclass(frozen=True)
class Metric:
    """A metric, or a family of metrics whose name has a star for what only the run knows.

    In the texts of a family, the star stands for the same as in its name.

    Args:
        name: The name that it is logged with.
        kind: What its values are.
        title: What it is, for a chart of its own.
        meaning: The same in a sentence; empty where the title says it.
        label: What it is called beside the others in its panel; empty takes the star's part, or the title.
        row: What it is called in a narrow table, in at most 26 letters; empty takes the title.
        short: What it is called in a one-line display; only what has one is there.
        part: What the star stands for: a ``class``, a ``layer`` or another word. Names of classes and layers are
            shown as they are, others with spaces for underscores.
        over_interval: What a log line has of the steps since the one before.
        section: The section in which the report's page draws it.
        panel: The panel in which a run's pictures draw it; None for nowhere.
        places: What else shows it.

    Example:
        >>> from layermatch.metrics import LOSS_PART
        >>> LOSS_PART.of("fairness"), LOSS_PART.part_of("loss/fairness"), LOSS_PART.part_of("val/accuracy")
        ('loss/fairness', 'fairness', None)
    """

    name: str
    kind: Kind
    title: str
    meaning: str = ""
    label: str = ""
    row: str = ""
    short: str = ""
    part: str = ""
    over_interval: str = MEAN
    section: Section = Section.OTHER
    panel: Panel | None = None
    places: tuple[Place, ...] = ()

    @property
    def in_legend(self) -> str:
        """What it is called beside others in its panel."""
        return self.label or self.title

    @property
    def in_row(self) -> str:
        """What it is called in a narrow table."""
        return self.row or self.title

    @property
    def path(self) -> tuple[str, ...]:
        """The keys of its figure in ``results.json``: ``("val", "accuracy")``."""
        return tuple(self.name.split("/", 1))

    @property
    def is_of_validation(self) -> bool:
        """Whether it is a figure of the validation images."""
        return self.path[0] == "val"

    @property
    def vector(self) -> str:
        """What a family is recorded under that has a component for each class: the meter names them."""
        return self.name.removesuffix("/*")

    def of(self, part: str) -> str:
        """Name a member of this family."""
        return self.name.replace("*", part)

    def part_of(self, name: str) -> str | None:
        """Return what the star stands for in a name; None if the name is of no member of this family."""
        start, star, end = self.name.partition("*")
        is_member = bool(star) and len(name) > len(start + end) and name.startswith(start) and name.endswith(end)
        return name[len(start) : len(name) - len(end)] if is_member else None

    def member(self, name: str) -> Metric:
        """Describe a member of this family, with texts made from its name.

        Args:
            name: The name of the member.

        Example:
            >>> from layermatch.metrics import LOSS_PART
            >>> found = LOSS_PART.member("loss/entropy_bonus")
            >>> found.name, found.title, found.label
            ('loss/entropy_bonus', 'Entropy bonus part', 'entropy bonus')
        """
        part = self.part_of(name) or name
        words = part if self.part in {"class", "layer"} else part.replace("_", " ")
        texts = {text: getattr(self, text).replace("*", words) for text in ("title", "meaning", "row", "short")}
        texts["title"] = texts["title"][:1].upper() + texts["title"][1:]
        return replace(self, name=name, label=self.label.replace("*", words) or words, **texts)

    def read(self, results: Mapping[str, Any]) -> Any:
        """Return its figure in the content of a ``results.json``; None where there is none.

        Example:
            >>> from layermatch.metrics import VAL_ACCURACY
            >>> VAL_ACCURACY.read({"val": {"accuracy": 0.5}}), VAL_ACCURACY.read({"val": None})
            (0.5, None)
        """
        value: Any = results
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True)
class Catalogue:
    """Metrics in the order in which they are shown.

    Args:
        metrics: The metrics, each name once.
    """

    metrics: tuple[Metric, ...]

    def plus(self, own: Iterable[Metric]) -> Catalogue:
        """Add metrics of a method, each before the family that it would be in; what has a name here already is left.

        Args:
            own: The metrics to add, in their order.
        """
        metrics = list(self.metrics)
        for metric in own:
            if all(metric.name != other.name for other in metrics):
                metrics.insert(Catalogue(tuple(metrics))._index(metric.name), metric)
        return Catalogue(tuple(metrics))

    def _index(self, name: str) -> int:
        """Find the place of a metric, or of the family that says most of its name; without one, behind all others."""
        if name in self._places:
            return self._places[name]
        families = (self._places[family.name] for family in self._families if family.part_of(name) is not None)
        return next(families, len(self.metrics))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {metric.name: place for place, metric in enumerate(self.metrics)}

    @cached_property
    def _families(self) -> list[Metric]:
        families = [metric for metric in self.metrics if "*" in metric.name]
        return sorted(families, key=lambda family: -len(family.name))

    def has(self, name: str) -> bool:
        """Return whether a logged name is one of these metrics, or of one of these families."""
        return self._index(name) < len(self.metrics)

    def find(self, name: str) -> Metric:
        """Describe a logged name, whatever it is.

        Args:
            name: The name that it is logged with.

        Example:
            >>> from layermatch.metrics import CATALOGUE
            >>> CATALOGUE.find("loss/features").title, CATALOGUE.find("mine/own").title
            ('Loss of the extractor', 'mine/own')
        """
        if not self.has(name):
            return Metric(name, VALUE, title=name, label=name)
        metric = self.metrics[self._index(name)]
        return metric if metric.name == name else metric.member(name)

    def arrange(self, names: Iterable[str]) -> list[Metric]:
        """Describe logged names, in the order of the catalogue.

        Args:
            names: The logged names; what has no place of its own stays in their order.
        """
        return [self.find(name) for name in sorted(names, key=self._index)]

    def in_section(self, section: Section) -> list[Metric]:
        """Return the metrics that a section of the report's page draws."""
        return [metric for metric in self.metrics if metric.section == section]

    def in_place(self, place: Place) -> list[Metric]:
        """Return the metrics that something shows."""
        return [metric for metric in self.metrics if place in metric.places]


# ------------------------------------------------------------------------------------------------------- metrics.json


def dumps(metrics: Sequence[Metric]) -> str:
    """Return the metrics as the text of a ``metrics.json``."""
    plain = [asdict(metric) | {"kind": metric.kind.name} for metric in metrics]
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def loads(text: str) -> tuple[Metric, ...]:
    """Return the metrics in a ``metrics.json``, which may be a stranger's.

    Args:
        text: The text of the file.

    Raises:
        ValueError: The text is no ``metrics.json``.

    Example:
        >>> from layermatch.metrics import MASK_RATE
        >>> loads(dumps([MASK_RATE])) == (MASK_RATE,)
        True
    """
    plain = json.loads(text)
    if not isinstance(plain, list):
        raise ValueError("it lists no metrics")
    return tuple(map(_from_plain, plain))


def _from_plain(plain: object) -> Metric:
    try:
        given = dict(plain)  # type: ignore[call-overload]
        name, kind, panel = _text(given.pop("name")), KINDS[given.pop("kind")], given.pop("panel")
        if not name:
            raise ValueError("it has no name")
        section, places = Section(given.pop("section")), tuple(map(Place, given.pop("places")))
        return Metric(
            name,
            kind,
            section=section,
            places=places,
            panel=None if panel is None else Panel(**_readable(panel)),
            **_readable(given),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("a metric in it cannot be read") from error


def _readable(texts: Mapping[str, object]) -> dict[str, str]:
    """Return the texts that cannot move the cursor of who reads them."""
    return {key: printable(_text(text)) for key, text in texts.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("it is no text")
    return value
