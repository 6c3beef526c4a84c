"""Numbers of the peers' own code, and the largest difference from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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
        largest = (given - wanted).abs().max().item() if given.numel() else 0.0
        assert largest <= self.tolerance, (what, largest)
        self.difference = max(self.difference, largest)

    def say(self, what: str) -> None:
        """Show it, where pytest is asked to (``-s``)."""
        print(f"{what}: worst difference {self.difference:.1e}")  # noqa: T201
