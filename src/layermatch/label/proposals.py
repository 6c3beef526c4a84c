"""What to label next, what a model thinks of the rest, and which labels it doubts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "confident", "doubted", "read_found", "typical", "uncertain"]

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of the ``n`` pictures that were looked at.

    Args:
        numbers: ``(n,)`` int64, the number of each picture.
        clusters: ``(n,)`` int32, the cluster of each.
        distances: ``(n,)`` float32, how far each is from the centre of its cluster.
        classes: The ``K`` classes of the model; none without a model.
        probabilities: ``(n, K)`` float32, from a file that is mapped.
        guess: ``(n,)``, the most probable class of each.
        confidence: ``(n,)`` float32, the probability of that.
        margin: ``(n,)`` float32, how much more probable it is than the next class.
    """

    numbers: Int
    clusters: NDArray[np.int32]
    distances: NDArray[np.float32]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    guess: Int
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]


def read_found(folder: Path) -> Found:
    """Read what :mod:`layermatch.label.examine` wrote after a sample.

    Args:
        folder: The folder of the sample.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not whole.
    """
    numbers, clusters, distances = (
        np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("indices", "clusters", "distances")
    )
    probabilities = np.load(folder / "probabilities.npy", mmap_mode="r", allow_pickle=False)
    classes = tuple(json.loads((folder / "classes.json").read_text(encoding="utf-8")))
    guess, confidence, margin = _best(probabilities)
    return Found(
        numbers.astype(np.int64), clusters, distances, classes, probabilities, guess, confidence, margin
    )  # fmt: skip


def _best(probabilities: NDArray[np.float32]) -> tuple[Int, NDArray[np.float32], NDArray[np.float32]]:
    """Return the most probable class, its probability and its lead, some thousand rows at a time."""
    count, classes = probabilities.shape
    guess, confidence, margin = np.zeros(count, np.int64), np.zeros(count, np.float32), np.zeros(count, np.float32)
    if classes == 0:
        return guess, confidence, margin
    for begin in range(0, count, 4096):
        rows = np.asarray(probabilities[begin : begin + 4096])
        part = slice(begin, begin + len(rows))
        guess[part] = rows.argmax(axis=1)
        two = np.sort(rows, axis=1)[:, -2:]
        confidence[part] = two[:, -1]
        margin[part] = two[:, -1] - (two[:, 0] if classes > 1 else 0)
    return guess, confidence, margin


def uncertain(found: Found, is_open: Bool) -> Int:
    """Return the pictures without a label, those between two classes first.

    Args:
        found: What is known; there must be a model.
        is_open: ``(N,)`` bool, which of all pictures can be proposed.

    Returns:
        Their numbers, by how little the most probable class is ahead of the next one (the margin: Scheffer et al.,
        Active hidden Markov models for information extraction, 2001).
    """
    places = np.flatnonzero(is_open[found.numbers])
    return found.numbers[places[np.argsort(found.margin[places], kind="stable")]]


def typical(found: Found, is_open: Bool, is_labelled: Bool) -> Int:
    """Return the pictures without a label, the most typical one of each cluster first.

    Clusters with the fewest labels come first, and the larger one of two with as many; so labels are spread over what
    there is (Hacohen et al., Active learning on a budget, 2022; there a picture is typical by its neighbours, here by
    its distance to the centre of its cluster).

    Args:
        found: What is known.
        is_open: ``(N,)`` bool, which of all pictures can be proposed.
        is_labelled: ``(N,)`` bool, which have a label.

    Returns:
        Their numbers.

    Example:
        >>> three, none = np.arange(3), np.zeros((3, 0))
        >>> found = Found(three, np.array([0, 0, 1]), np.array([2.0, 1.0, 5.0]), (), none, three, three, three)
        >>> typical(found, np.ones(3, bool), np.zeros(3, bool)).tolist()
        [1, 2, 0]
    """
    if not len(found.numbers):
        return found.numbers
    number = int(found.clusters.max()) + 1
    sizes = np.bincount(found.clusters, minlength=number)
    labelled = np.bincount(found.clusters[is_labelled[found.numbers]], minlength=number)
    places = np.flatnonzero(is_open[found.numbers])
    places = places[np.lexsort((found.distances[places], found.clusters[places]))]
    clusters = found.clusters[places]
    begins = np.searchsorted(clusters, clusters)  # where the cluster of each begins
    turn = labelled[clusters] + np.arange(len(places)) - begins
    return found.numbers[places[np.lexsort((clusters, -sizes[clusters], turn))]]


def confident(found: Found, is_open: Bool, name: str, least: float) -> Int:
    """Return the pictures without a label that the model takes for a class, the surest first.

    Args:
        found: What is known.
        is_open: ``(N,)`` bool, which of all pictures have no label.
        name: The name of the class.
        least: The smallest confidence, from 0 to 1.

    Returns:
        Their numbers; none where the model does not know the class.
    """
    if name not in found.classes:
        return np.zeros(0, np.int64)
    is_meant = is_open[found.numbers] & (found.guess == found.classes.index(name)) & (found.confidence >= least)
    places = np.flatnonzero(is_meant)
    return found.numbers[places[np.argsort(-found.confidence[places], kind="stable")]]


def doubted(found: Found, labels: Sequence[str], below: float) -> Int:
    """Return the labelled pictures whose label the model finds improbable, the least probable first.

    Args:
        found: What is known.
        labels: The label of each of all ``N`` pictures, empty where there is none.
        below: The probability below which a label is doubted, from 0 to 1.

    Returns:
        Their numbers. A label of a class that the model does not know is none of them.
    """
    known = {name: place for place, name in enumerate(found.classes)}
    given = np.array([known.get(labels[number], -1) for number in found.numbers.tolist()], np.int64)
    places = np.flatnonzero(given >= 0)
    probabilities = np.array([found.probabilities[place, given[place]] for place in places], np.float32)
    order = np.argsort(probabilities, kind="stable")
    return found.numbers[places[order[probabilities[order] < below]]]


def thoughts(found: Found | None, total: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return what the model thinks of each of all pictures, for looking up.

    Args:
        found: What is known; None before anything is.
        total: The number of all pictures ``N``.

    Returns:
        ``(N,)`` the class of each, -1 where nothing is known; and ``(N,)`` its probability.
    """
    guess, confidence = np.full(total, -1, np.int32), np.zeros(total, np.float32)
    if found is not None and found.classes:
        guess[found.numbers], confidence[found.numbers] = found.guess, found.confidence
    return guess, confidence


def shown(value: Any) -> float:
    """Return a probability as it is sent to the page.

    Args:
        value: The probability.

    Example:
        >>> shown(np.float32(0.98765))
        0.988
    """
    return round(float(value), 3)
