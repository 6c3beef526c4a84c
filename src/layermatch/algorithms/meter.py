"""Means of logged quantities over the steps between two log lines."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_sum_

__all__ = ["IntervalMeter"]


class IntervalMeter:
    """Adds up quantities on their device, and reads them out once an interval, so that no step waits for them.

    Example:
        >>> meter = IntervalMeter()
        >>> meter.add({"loss": torch.tensor(1.0)})
        >>> meter.add({"loss": torch.tensor(3.0)}, {"accuracy": (torch.tensor(1.0), torch.tensor(4.0))})
        >>> meter.read_out()
        {'accuracy': 0.25, 'loss': 2.0}
        >>> meter.read_out()
        {}
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, means: dict[str, Tensor], ratios: dict[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """Add one step.

        Args:
            means: scalars; the mean over the steps is read out.
            ratios: pairs of scalars; the ratio of their sums is read out.
        """
        pairs = {name: (value, torch.ones_like(value)) for name, value in means.items()} | (ratios or {})
        for name, pair in pairs.items():
            total = torch.stack(pair).detach().float()
            # One value that is not finite, of a step that is not applied, would spoil the whole interval.
            total = torch.where(total.isfinite().all(), total, 0.0)
            self._totals[name] = self._totals[name] + total if name in self._totals else total

    def read_out(self) -> dict[str, float]:
        """The means over all ranks since the last read-out. A ratio of nothing is left out. Starts afresh."""
        means = self.look()
        self._totals = {}
        return means

    def look(self) -> dict[str, float]:
        """As :meth:`read_out`, but goes on adding."""
        if not self._totals:
            return {}
        names = sorted(self._totals)
        totals = all_reduce_sum_(torch.stack([self._totals[name] for name in names])).tolist()
        return {name: top / bottom for name, (top, bottom) in zip(names, totals, strict=True) if bottom}

    def state_dict(self) -> dict[str, Tensor]:
        """What has been added since the last read-out."""
        return dict(self._totals)

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from a saved state."""
        self._totals = {name: total.to(device) for name, total in state.items()}
