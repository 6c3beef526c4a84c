"""The page of a check: one file that needs no other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from layermatch.check.findings import Inspection, Pair, Where
from layermatch.check.pictures import SIDE, as_address, sheet, spread, thumbnail
from layermatch.text import printable

__all__ = ["GENERATOR", "render"]

#: The mark of our files, so that nothing else is overwritten.
GENERATOR = "layermatch.check"

#: The most classes that are shown with pictures, and the most pairs.
_MOST_CLASSES, _MOST_PAIRS = 100, 40
#: The most columns of a chart of sizes.
_BARS = 24


def render(found: Inspection, *, title: str, pictures: int) -> str:
    """Return the page as HTML.

    Args:
        found: What was found.
        title: What was looked at.
        pictures: The pictures of each class.
    """
    loaders = [PackageLoader("layermatch.check"), PackageLoader("layermatch.report")]  # whose style it has
    environment = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined)
    environment.filters["printable"] = printable
    style = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    classes = found.content.classes
    return environment.get_template("check.html").render(
        generator=GENERATOR,
        style=style,
        title=title,
        found=found,
        problems=found.problems,
        remarks=[one for one in found.findings if not one.is_problem],
        parts=list(found.counts),
        rows=_class_rows(found),
        totals=[sum(counts) for counts in found.counts.values()],
        pairs=[_pair(found, pair) for pair in found.pairs[:_MOST_PAIRS]],
        more_pairs=max(len(found.pairs) - _MOST_PAIRS, 0),
        charts=_charts(found),
        sheets=[_class_sheet(found, number, pictures) for number in range(min(len(classes), _MOST_CLASSES))],
        more_classes=max(len(classes) - _MOST_CLASSES, 0),
        side=SIDE,
    )


def _class_rows(found: Inspection) -> list[tuple[str, list[int]]]:
    names = [*found.content.classes, "without a label"]
    rows = [(name, [counts[number] for counts in found.counts.values()]) for number, name in enumerate(names)]
    return [(name, counts) for number, (name, counts) in enumerate(rows) if any(counts) or number < len(names) - 1]


def _pair(found: Inspection, pair: Pair) -> dict[str, Any]:
    return {
        "leaks": pair.leaks,
        "how": "equal pixels" if pair.distance is None else f"{pair.distance} of 64 bits differ",
        "images": [_image(found, where) for where in (pair.first, pair.second)],
    }


def _image(found: Inspection, where: Where) -> dict[str, str]:
    picture = thumbnail(found.content.parts[where.part].images, where.row)
    return {
        "address": as_address(picture), "name": found.name(where), "part": where.part, "label": found.label(where)
    }  # fmt: skip


def _class_sheet(found: Inspection, number: int, pictures: int) -> dict[str, Any]:
    """Draw pictures of a class, those of the labelled part if it has some."""
    for part, images in found.content.parts.items():
        whole = found.looks[part].is_whole
        rows = np.flatnonzero((images.labels == number) & whole)
        if len(rows):
            chosen = spread(rows, pictures)
            names = [found.name(Where(part, row)) for row in chosen.tolist()]
            return {
                "name": found.content.classes[number], "part": part,
                "address": as_address(sheet(images.images, chosen)),
                "count": len(rows), "names": names, "width": len(chosen),
            }  # fmt: skip
    return {"name": found.content.classes[number], "part": "", "address": "", "count": 0, "names": [], "width": 0}


def _charts(found: Inspection) -> list[dict[str, Any]]:
    sizes = np.concatenate([looks.sizes[looks.is_whole] for looks in found.looks.values()])
    if not len(sizes):
        return []
    short, ratio = sizes.min(axis=1), sizes.max(axis=1) / sizes.min(axis=1)
    return [
        {"title": "Short side in pixels", "bars": _bars(short.astype(np.float64), digits=0)},
        {"title": "Long side to short side", "bars": _bars(ratio, digits=2)},
    ]


def _bars(values: NDArray[np.float64], *, digits: int) -> Sequence[dict[str, Any]]:
    """Return how many values lie in each of some ranges of equal ratio."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [{"range": f"{low:.{digits}f}", "count": len(values), "share": 1.0}]
    count = min(_BARS, max(2, len(np.unique(values))))
    edges = np.geomspace(low, high * (1 + 1e-9), count + 1)
    counts = np.histogram(values, edges)[0]
    top = math.sqrt(counts.max())
    return [
        {
            "range": f"{edges[k]:.{digits}f} to {edges[k + 1]:.{digits}f}", "count": int(counts[k]),
            "share": math.sqrt(counts[k]) / top,
        }
        for k in range(count) if counts[k]
    ]  # fmt: skip
