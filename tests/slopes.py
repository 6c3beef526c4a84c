"""Gradients of a plain numpy function by central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def slope(function: Callable[[Floats], float], at: Floats, index: Sequence[int], *, step: float = 1e-6) -> float:
    """The derivative of a function to one entry of its argument; right to about 1e-9 for values near 1."""
    above, below = at.copy(), at.copy()
    above[tuple(index)] += step
    below[tuple(index)] -= step
    return float((function(above) - function(below)) / (2 * step))


def slopes(function: Callable[[Floats], float], at: Floats, *, step: float = 1e-6) -> Floats:
    """The derivatives to all entries; see :func:`slope`."""
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        found[index] = slope(function, at, index, step=step)
    return found
