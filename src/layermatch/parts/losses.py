"""The losses of a step: each says where it comes from and which parameters it reaches."""

from __future__ import annotations

from collections.abc import Collection, Set
from typing import NamedTuple, Self

import torch
from torch import Tensor

from layermatch.errors import UserError, check_choice

__all__ = ["LABELS", "PSEUDO_LABELS", "Losses", "Term", "check_losses"]

#: What a term is made of: the labels, or what the network itself says of unlabelled images.
LABELS, PSEUDO_LABELS = "labels", "pseudo_labels"


class _Fields(NamedTuple):
    value: Tensor
    source: str
    reaches: frozenset[str] | None
    weight: float


class Term(_Fields):
    """One loss of a step.

    Attributes:
        value: Scalar, with its graph; what is logged as ``loss/NAME``.
        source: ``labels`` or ``pseudo_labels``.
        reaches: The parameter groups that its gradient reaches, for example ``{"extractor"}``: whoever makes the term
            sees to that by stop-gradients. None is all of them.
        weight: What the value is multiplied by in the sum.

    Raises:
        UserError: The source is neither of the two, or ``reaches`` is no set of names.
    """

    __slots__ = ()

    def __new__(
        cls, value: Tensor, source: str = LABELS, reaches: frozenset[str] | None = None, weight: float = 1.0
    ) -> Self:
        """Look at the fields that a wrong word would make silent."""
        check_choice("the source of a Term", source, (LABELS, PSEUDO_LABELS))
        if reaches is not None and not isinstance(reaches, Set):
            raise UserError(f"Term(reaches={reaches!r}) is not legal: give a set of names, or None for all groups")
        return super().__new__(cls, value, source, reaches, weight)

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
        """Return the loss that one parameter group learns from.

        Args:
            group: A key of :meth:`~layermatch.networks.Network.parameter_groups`.
        """
        return self._sum([term for term in self.values() if term.reaches is None or group in term.reaches])

    def of(self, source: str) -> Tensor:
        """Return the terms of one source.

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


def check_losses(found: object, *, groups: Collection[str], giver: str) -> None:
    """Refuse what a method gives as its losses, where no step can be made with it.

    Args:
        found: What the method gave.
        groups: The parameter groups of the network.
        giver: The name of the method.

    Raises:
        UserError: It is no :class:`Losses` of at least one :class:`Term`, a value is no scalar, a term reaches a group
            that the network does not have, or no value has a gradient.

    Example:
        >>> losses = Losses(pseudo=Term(torch.tensor(3.0), "pseudo_labels", frozenset({"extractr"})))
        >>> check_losses(losses, groups=("extractor", "classifier"), giver="Mine")
        Traceback (most recent call last):
        layermatch.errors.UserError: Mine: the loss 'pseudo' reaches 'extractr': choose from classifier, extractor
    """
    if not isinstance(found, Losses):
        raise UserError(f"{giver}.losses gives {_kind(found)}: give Losses(NAME=Term(VALUE), ...)")
    if not found:
        raise UserError(f"{giver}.losses gives no loss: give Losses(NAME=Term(VALUE), ...)")
    for name, term in found.items():
        what = f"{giver}: the loss {name!r}"
        if not isinstance(term, Term):
            raise UserError(f"{what} is {_kind(term)}: give Term(VALUE)")
        value: object = term.value
        if not isinstance(value, Tensor) or value.ndim:
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise UserError(f"{what} is {_kind(value)}{shape}: give a scalar tensor, such as a mean")
        unknown = sorted(set(term.reaches or ()) - set(groups))
        if unknown:
            raise UserError(f"{what} reaches {', '.join(map(repr, unknown))}: choose from {', '.join(sorted(groups))}")
    if not found.total.requires_grad:
        raise UserError(f"{giver}: no loss has a gradient: give losses of what step.network makes of the images")


def _kind(found: object) -> str:
    return "None" if found is None else f"a {type(found).__name__}"
