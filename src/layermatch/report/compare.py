"""Figures of a setting over its seeds, and the difference of two settings by seed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Comparison", "Summary", "compare", "summarise"]

#: What two runs are paired by.
Seed = TypeVar("Seed", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Figures over seeds.

    Args:
        mean: The mean of the figures.
        std: The standard deviation with n - 1 in the denominator; None for a single figure.
        n: The number of figures.
    """

    mean: float
    std: float | None
    n: int


def summarise(figures: Iterable[float]) -> Summary | None:
    """Return the mean, standard deviation and n.

    Args:
        figures: The figures, one per seed.

    Returns:
        None without figures.

    Example:
        >>> summarise([0.25, 0.5, 0.75])
        Summary(mean=0.5, std=0.25, n=3)
        >>> summarise([0.5])
        Summary(mean=0.5, std=None, n=1)
    """
    values = np.fromiter(figures, dtype=np.float64)
    if not len(values):
        return None
    mean = float(values.mean())
    std = None if len(values) == 1 else float(values.std(ddof=1))
    if std is not None and std < 1e-12 * abs(mean):
        std = 0.0  # the same figure each time, but for the rounding of its mean
    return Summary(mean, std, len(values))


@dataclass(frozen=True)
class Comparison:
    """A setting against a baseline, paired by seed.

    Args:
        difference: Mean of the differences, setting - baseline.
        interval: Its confidence interval by Student's t distribution with n - 1 degrees of freedom,
            ``difference ± t s / sqrt(n)`` where s is the standard deviation of the differences; None for one pair.
        wins: The seeds in which the setting is above the baseline.
        ties: The seeds in which it is equal.
        n: The number of pairs.
    """

    difference: float
    interval: tuple[float, float] | None
    wins: int
    ties: int
    n: int


def compare(
    figures: Mapping[Seed, float], baseline: Mapping[Seed, float], *, level: float = 0.95, overlap: float = 0.0
) -> Comparison | None:
    """Compare by seed: seeds that only one of the two has do not count.

    Args:
        figures: The figure of the setting for each seed.
        baseline: The figure of the baseline for each seed.
        level: The level of the confidence interval, in (0, 1).
        overlap: The number of images that a run is judged by for each one that it learns from, where runs share what
            they learn from, as the folds of a cross-validation do: ``1 / (k - 1)`` with k folds. The interval is
            ``difference ± t s sqrt(1/n + overlap)`` then (Nadeau and Bengio, "Inference for the Generalization Error",
            Machine Learning 52, 2003): pairs that are not independent say less.

    Returns:
        None without a common seed.

    Example:
        >>> result = compare({0: 0.92, 1: 0.94, 2: 0.90, 7: 0.1}, {0: 0.90, 1: 0.91, 2: 0.90})
        >>> round(result.difference, 4), result.wins, result.ties, result.n
        (0.0167, 2, 1, 3)
        >>> tuple(round(end, 4) for end in result.interval)
        (-0.0213, 0.0546)
    """
    seeds = [seed for seed in figures if seed in baseline]
    if not seeds:
        return None
    # As many right images are the same accuracy, whichever way its float was computed.
    differences = [round(figures[seed] - baseline[seed], 7) for seed in seeds]
    summary = summarise(differences)
    if summary is None:
        return None
    interval = None
    if summary.std is not None:
        interval = (summary.mean, summary.mean)
        if summary.std:
            interval = _interval(differences, level) if not overlap else _wider(summary, level, overlap)
    wins, ties = sum(d > 0 for d in differences), sum(d == 0 for d in differences)
    return Comparison(summary.mean, interval, wins, ties, summary.n)


def _interval(differences: Sequence[float], level: float) -> tuple[float, float]:
    from scipy.stats import ttest_1samp  # of the differences: the paired test, which would take them again itself

    found = ttest_1samp(differences, 0.0).confidence_interval(level)
    return float(found.low), float(found.high)


def _wider(summary: Summary, level: float, overlap: float) -> tuple[float, float]:
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, summary.n - 1)) * float(summary.std or 0.0) * (1 / summary.n + overlap) ** 0.5
    return summary.mean - half, summary.mean + half
