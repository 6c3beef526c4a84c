"""Means of logged quantities over the steps between two log lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layermatch.distributed import all_gather_rows, all_reduce_sum_, rank, world_size

__all__ = ["IntervalMeter"]

#: Quantities that are added together, by name and number of components (0 is a scalar's).
Group = tuple[tuple[str, int], ...]


class IntervalMeter:
    """Adds up quantities on their device, and reads them out once an interval, so that no step waits for them.

    A value that is not finite is not added: a single bad step, or a quantity that a step does not define, does not
    spoil the interval's mean. The quantities of one :meth:`add` are summed in one tensor, so that a step launches few
    kernels however much is logged.

    Example:
        >>> meter = IntervalMeter()
        >>> meter.add({"loss": torch.tensor(1.0)})
        >>> meter.add({"loss": torch.tensor(3.0)}, {"accuracy": (torch.tensor(1.0), torch.tensor(4.0))})
        >>> meter.add({"counts": torch.tensor([2.0, 5.0])})
        >>> meter.read_out(("cat", "dog"))
        {'loss': 2.0, 'accuracy': 0.25, 'counts/cat': 2.0, 'counts/dog': 5.0}
        >>> meter.read_out()
        {}
    """

    def __init__(self) -> None:
        #: ``(2, C)`` for each group: the sums of values and of what they are divided by.
        self._totals: dict[Group, Tensor] = {}

    def add(self, means: dict[str, Tensor], ratios: dict[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """Add one step.

        Args:
            means: Scalars or vectors ``(K,)``; the mean over the steps is read out.
            ratios: Pairs of them; the ratio of their sums is read out.
        """
        pairs = {name: (value, torch.ones_like(value)) for name, value in means.items()} | (ratios or {})
        if not pairs:
            return
        group = tuple((name, len(top) if top.ndim else 0) for name, (top, _) in pairs.items())
        tops, bottoms = zip(*pairs.values(), strict=True)
        total = torch.stack([_joined(tops), _joined(bottoms)])  # (2, C)
        total = torch.where(total.isfinite().all(dim=0), total, torch.zeros_like(total))
        self._totals[group] = self._totals[group] + total if group in self._totals else total

    def read_out(self, component_names: Sequence[str] = ()) -> dict[str, float]:
        """Return the means over all ranks since the last read-out. A ratio of nothing is left out. Starts afresh.

        Args:
            component_names: Names of the components of a vector, which is read out as ``NAME/COMPONENT``; without them,
                or where it has another number of components, they have numbers.
        """
        means = self.look(component_names)
        self._totals = {}
        return means

    def look(self, component_names: Sequence[str] = ()) -> dict[str, float]:
        """Return the same means as :meth:`read_out` gives, without starting afresh."""
        if not self._totals:
            return {}
        totals = all_reduce_sum_(torch.cat(list(self._totals.values()), dim=1)).T.tolist()
        sums: dict[str, tuple[float, float]] = {}
        for name, (top, bottom) in zip(self.names(component_names), totals, strict=True):
            before = sums.get(name, (0.0, 0.0))  # steps may have added it beside different others
            sums[name] = (before[0] + top, before[1] + bottom)
        return {name: top / bottom for name, (top, bottom) in sums.items() if bottom}

    def names(self, component_names: Sequence[str] = ()) -> list[str]:
        """Name what was added since the last read-out, also ratios of nothing; a name for each group that has it."""
        return [name for group in self._totals for name in _column_names(group, component_names)]

    def move_to(self, device: torch.device) -> None:
        """Have what was added on this device: a checkpoint is loaded before the model is on its own."""
        self._totals = {group: totals.to(device) for group, totals in self._totals.items()}

    def state_dict(self) -> list[dict[str, Any]]:
        """Gather what every rank has added since the last read-out, in containers and tensors; all ranks must ask."""
        return [
            {
                "names": [name for name, _ in group],
                "sizes": [size for _, size in group],
                "totals": all_gather_rows(totals[None]),  # (ranks, 2, C)
            }
            for group, totals in self._totals.items()
        ]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from a saved state; with another number of ranks than it has, the first one gets their sum."""
        self._totals = {
            tuple(zip(part["names"], part["sizes"], strict=True)): _of_this_rank(part["totals"]) for part in state
        }


def _of_this_rank(totals: Tensor) -> Tensor:
    if len(totals) == world_size():
        return totals[rank()].clone()
    summed = totals.sum(dim=0)
    return summed if rank() == 0 else torch.zeros_like(summed)


def _joined(values: Sequence[Tensor]) -> Tensor:
    # Each in float32 before they meet: in bf16, 256 + 1 is 256.
    return torch.cat([value.detach().float().reshape(-1) for value in values])


def _column_names(group: Group, component_names: Sequence[str]) -> list[str]:
    names = []
    for name, size in group:
        components = component_names if len(component_names) == size else range(size)
        names += [f"{name}/{component}" for component in components] if size else [name]
    return names
