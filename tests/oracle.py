"""Numbers of the peers' own code, and the largest difference from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

#: The largest difference of each comparison of the test that runs, where it is marked ``oracle``.
_noted: list[float] = []


def read(name: str) -> dict[str, Any]:
    """The numbers of a method."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "oracles" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def expected(numbers: dict[str, Any], recorded: dict[str, Any], variant: str) -> dict[str, Any]:
    """What a variant gives at a step; a paper's variant has what differs from its base."""
    base = numbers["variants_of_the_paper"].get(variant, {}).get("base", variant)
    return recorded["outputs"][base] | recorded["outputs"][variant]


def tensor(values: Any) -> Tensor:
    """Float64, as the numbers are."""
    return torch.as_tensor(values, dtype=torch.float64)


class Worst:
    """The largest difference that was found, each of which must be small."""

    def __init__(self, tolerance: float = 1e-7) -> None:
        self.tolerance = tolerance
        self.difference = 0.0

    def see(self, found: Tensor | float, wanted: Any, what: str = "") -> None:
        """Compare two, of which shapes must be the same."""
        given, wanted = tensor(found).detach(), tensor(wanted)
        assert given.shape == wanted.shape, what
        largest = largest_difference(given, wanted)
        _noted.append(largest)
        assert largest <= self.tolerance, (what, largest)
        self.difference = max(self.difference, largest)

    def say(self, what: str) -> None:
        """Show it, where pytest is asked to (``-s``)."""
        print(f"{what}: worst difference {self.difference:.1e}")  # noqa: T201


def largest_difference(found: Any, wanted: Any) -> float:
    """Of any two that numpy can subtract; 0 of none."""
    given, expected = (each.detach().cpu().numpy() if isinstance(each, Tensor) else each for each in (found, wanted))
    difference = np.abs(np.asarray(given, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
    return float(difference.max()) if difference.size else 0.0


class Approximately:
    """``pytest.approx``, which notes the difference of what it is compared with."""

    __array_ufunc__ = None  # an array asks us, too
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, approx: Any, expected: Any) -> None:
        self.approx, self.expected = approx, expected

    def __eq__(self, found: object) -> bool:
        _noted.append(largest_difference(found, self.expected))
        return bool(self.approx == found)

    def __repr__(self) -> str:
        return repr(self.approx)


@contextmanager
def noting_differences() -> Iterator[list[float]]:
    """Note what a test finds by :class:`Worst`, ``assert_close`` and ``approx``, which do what they did."""
    assert_close, approx = torch.testing.assert_close, pytest.approx

    def close(actual: Any, expected: Any, **options: Any) -> None:
        _noted.append(largest_difference(actual, expected))
        assert_close(actual, expected, **options)

    def approximately(expected: Any, *args: Any, **options: Any) -> Approximately:
        return Approximately(approx(expected, *args, **options), expected)

    _noted.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.testing, "assert_close", close)
        patch.setattr(pytest, "approx", approximately)
        yield _noted
