"""The losses of a step: each says where it comes from and which parameters it reaches."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LABELS", "PSEUDO_LABELS", "Losses", "Term"]

#: What a term is made of: the labels, or what the network itself says of unlabelled images.
LABELS, PSEUDO_LABELS = "labels", "pseudo_labels"


class Term(NamedTuple):
    """One loss of a step.

    Attributes:
        value: Scalar, with its graph; what is logged as ``loss/NAME``.
        source: ``labels`` or ``pseudo_labels``.
        reaches: The parameter groups that its gradient reaches, for example ``{"extractor"}``: whoever makes the term
            sees to that by stop-gradients. None is all of them.
        weight: What the value is multiplied by in the sum.
    """

    value: Tensor
    source: str = LABELS
    reaches: frozenset[str] | None = None
    weight: float = 1.0

    @property
    def weighted(self) -> Tensor:
        """The term as it stands in the sum."""
        return self.value if self.weight == 1.0 else self.weight * self.value


class Losses(dict[str, Term]):
    """The losses of a step by name; one backward of :attr:`total` gives each parameter group the gradient of its own.

    Example:
        >>> losses = Losses(supervised=Term(torch.tensor(2.0)))
        >>> losses["pseudo"] = Term(torch.tensor(3.0), "pseudo_labels", frozenset({"extractor"}), weight=0.5)
        >>> losses.reaching("extractor"), losses.reaching("classifier"), losses.of("pseudo_labels")
        (tensor(3.5000), tensor(2.), tensor(1.5000))
    """

    @property
    def total(self) -> Tensor:
        """What to call backward on. Its value means little; its gradient is each group's own."""
        return self._sum(list(self.values()))

    def reaching(self, group: str) -> Tensor:
        """The loss that one parameter group learns from.

        Args:
            group: A key of :meth:`~layermatch.networks.Network.parameter_groups`.
        """
        return self._sum([term for term in self.values() if term.reaches is None or group in term.reaches])

    def of(self, source: str) -> Tensor:
        """The terms of one source.

        Args:
            source: ``labels`` or ``pseudo_labels``.

        Returns:
            Their sum; 0 without a graph where there is none.
        """
        return self._sum([term for term in self.values() if term.source == source])

    def _sum(self, terms: list[Term]) -> Tensor:
        if not terms:
            return torch.zeros((), device=next(iter(self.values())).value.device if self else None)
        total = terms[0].weighted
        for term in terms[1:]:
            total = total + term.weighted
        return total
