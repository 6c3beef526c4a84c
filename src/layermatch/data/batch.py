"""The batches that reach a method, and the views that a method asks for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from layermatch.errors import UserError, check_choice

__all__ = ["Batch", "EvalBatch", "Samples", "Unlabelled", "Views"]


@dataclass(frozen=True)
class Views:
    """The views that a method asks for: for each name, the kind of augmentation that makes it.

    The data module makes just these. Each view draws random numbers of its own, by its place in the mapping, so a view
    that is added at the end leaves the others as they were.

    Args:
        labelled: The views of labelled images, for example ``{"weak": "weak"}``; at least one.
        unlabelled: The views of unlabelled images, for example ``{"weak": "weak", "strong": "strong"}``; empty for a
            method that reads no unlabelled images.

    Raises:
        UserError: There is no labelled view, or one of the two is no mapping.

    Example:
        >>> Views(unlabelled={"weak": "weak", "strong": "strong", "strong_2": "strong"}).uses_unlabelled
        True
    """

    labelled: Mapping[str, str] = field(default_factory=lambda: {"weak": "weak"})
    unlabelled: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, views in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
            if not isinstance(views, Mapping):
                raise UserError(f'Views({part}={views!r}) is not legal: give names and kinds, {{"weak": "weak"}}')
        if not self.labelled:
            raise UserError('Views(labelled={}) is not legal: give at least one view, {"weak": "weak"}')

    def check(self, kinds: Collection[str]) -> None:
        """Refuse a view of a kind that nobody makes.

        Args:
            kinds: The kinds that there are.

        Raises:
            UserError: A view is of another one.
        """
        for part, views in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
            for name, kind in views.items():
                check_choice(f"Views({part}=...)[{name!r}]", kind, kinds)

    @property
    def uses_unlabelled(self) -> bool:
        """Whether the method reads unlabelled images."""
        return bool(self.unlabelled)


class Samples(NamedTuple):
    """Views of labelled images.

    Attributes:
        views: The views by name, each ``(B, C, H, W)`` float32, normalised.
        label: ``(B,)`` int64.
        indices: ``(B,)`` int64, positions in the labelled set.
    """

    views: Mapping[str, Tensor]
    label: Tensor
    indices: Tensor


class Unlabelled(NamedTuple):
    """Views of unlabelled images.

    Attributes:
        views: The views by name, each ``(N, C, H, W)`` float32, normalised.
        indices: ``(N,)`` int64, positions in the unlabelled pool.
        hidden_label: ``(N,)`` int64, the true class where the data set knows it and -1 elsewhere. It is for
            diagnostics only: no loss may read it.
    """

    views: Mapping[str, Tensor]
    indices: Tensor
    hidden_label: Tensor


class Batch(NamedTuple):
    """What one training step gets.

    Attributes:
        labelled: ``B`` labelled images.
        unlabelled: ``N = mu B`` unlabelled images; None for methods that use none.
    """

    labelled: Samples
    unlabelled: Unlabelled | None


class EvalBatch(NamedTuple):
    """Images of the validation or test set, not augmented.

    Attributes:
        image: ``(B, C, H, W)`` float32, normalised.
        label: ``(B,)`` int64.
        indices: ``(B,)`` int64, positions in the set.
    """

    image: Tensor
    label: Tensor
    indices: Tensor
