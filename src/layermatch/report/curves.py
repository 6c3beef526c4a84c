"""Mean curves over the seeds of a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layermatch.runs.metrics_file import Curve

__all__ = ["MeanCurve", "mean_curve"]

#: More points than this cannot be told apart in a chart.
MAX_POINTS = 200


@dataclass(frozen=True)
class MeanCurve:
    """A metric over the steps: its mean over the runs, and how far they spread.

    Args:
        steps: ``(P,)`` optimizer steps; of merged points the last one.
        mean: ``(P,)``.
        std: ``(P,)`` standard deviation over the runs (n - 1); None for one run.
        n: The number of runs.
        merged: How many log lines each point is the mean of.
    """

    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64] | None
    n: int
    merged: int


def mean_curve(curves: Sequence[Curve], *, max_points: int = MAX_POINTS) -> MeanCurve | None:
    """Return the average curves over the runs, at the steps that all of them have.

    So the mean is of the same runs everywhere: a run that ends early shortens it instead of bending it.

    Args:
        curves: The curves, one per run.
        max_points: Neighbouring points are merged down to this many.

    Returns:
        None without a common step. Where a value is not finite, the mean is not.

    Example:
        >>> curve = mean_curve([Curve([10, 20], [0.0, 1.0]), Curve([10, 20, 30], [1.0, 1.0, 5.0])])
        >>> curve.steps.tolist(), curve.mean.tolist(), curve.n
        ([10.0, 20.0], [0.5, 1.0], 2)
    """
    if not curves:
        return None
    steps = sorted(set(curves[0].steps).intersection(*(curve.steps for curve in curves[1:])))
    if not steps:
        return None
    values = np.array([_at(curve, steps) for curve in curves])  # (runs, P)
    values[~np.isfinite(values)] = np.nan
    size = -(-len(steps) // max_points)
    merged = np.stack([_merge(row, size) for row in values])
    std = merged.std(axis=0, ddof=1) if len(curves) > 1 else None
    if std is not None:
        std[np.ptp(merged, axis=0) == 0] = 0  # equal values: what is left is the rounding of their mean
    ends = [steps[min(start + size, len(steps)) - 1] for start in range(0, len(steps), size)]
    return MeanCurve(np.array(ends, dtype=np.float64), merged.mean(axis=0), std, len(curves), size)


def _at(curve: Curve, steps: Sequence[int]) -> list[float]:
    by_step = dict(zip(curve.steps, curve.values, strict=True))
    return [by_step[step] for step in steps]


def _merge(row: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the means of neighbours; the last one may be of fewer."""
    starts = np.arange(0, len(row), size)
    counts = np.diff(np.append(starts, len(row)))
    return np.asarray(np.add.reduceat(row, starts) / counts)
