"""Long-tailed classes: how many images of each class are labelled, and how many are in the unlabelled pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermatch.components import check_keys
from layermatch.errors import UserError, check_bool, check_number

__all__ = ["Imbalance", "long_tail"]

#: What a product that should be a whole number may lack, so that 1500 * 0.01 ** 1 is 15 and not 14.
_ROUNDING = 1e-9


def long_tail(*, head: int, gamma: float, num_classes: int) -> NDArray[np.int64]:
    r"""Compute class sizes of an exponential profile, rounded down.

    .. math:: n_k = \left\lfloor n_1 \, \gamma^{-(k - 1) / (K - 1)} \right\rfloor, \qquad k = 1, \dots, K

    Source: the long-tailed sets of Cui et al. 2019, as ABC (Lee et al. 2021), DASO (Oh et al. 2022) and USB use them.

    Args:
        head: ``n_1``, the size of the first class, at least 1.
        gamma: The first class is so many times as large as the last, at least 1.
        num_classes: ``K``, at least 2.

    Returns:
        ``(K,)`` int64.

    Example:
        >>> long_tail(head=1500, gamma=100, num_classes=10).tolist()
        [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
    """
    rank = np.arange(num_classes) / (num_classes - 1)
    sizes: NDArray[np.int64] = np.floor(head * float(gamma) ** -rank + _ROUNDING).astype(np.int64)
    return sizes


@dataclass(frozen=True)
class Imbalance:
    """Which long tails are cut out of a training pool; the first class of the source is the largest.

    The labelled images are in the unlabelled pool as well, as they always are here and in USB, and they are not counted
    in its profile. Test images stay as they are, and validation images keep the shares of the whole pool.

    NOTE: ABC and DASO leave the labelled images out of the unlabelled pool.

    Args:
        labelled: ``gamma`` of the labelled images, at least 1; None leaves them to ``num_labels``.
        labelled_head: The labelled images of the first class, at least 1; given with ``labelled`` alone.
        unlabelled: ``gamma`` of the other images of the pool, at least 1; None keeps every image.
        unlabelled_head: The unlabelled images of the largest class, at least 1; None takes as many as the classes
            allow.
        reversed: Whether the last class has the most unlabelled images.

    Raises:
        UserError: A value is out of range, or has no effect without another one.

    Example:
        >>> Imbalance(labelled=10, labelled_head=50, unlabelled=10, reversed=True).labels_per_class(np.full(3, 90))
        array([50, 15,  5])
    """

    labelled: float | None = None
    labelled_head: int | None = None
    unlabelled: float | None = None
    unlabelled_head: int | None = None
    reversed: bool = False

    def __post_init__(self) -> None:
        for part in ("labelled", "unlabelled"):
            gamma, head = getattr(self, part), getattr(self, f"{part}_head")
            if gamma is not None:
                check_number(f"imbalance.{part}", gamma, low=1)
            if head is not None:
                check_number(f"imbalance.{part}_head", head, low=1, integer=True)
                if gamma is None:
                    raise UserError(f"imbalance.{part}_head={head} needs imbalance.{part}, a number from 1")
        check_bool("imbalance.reversed", self.reversed)
        if self.labelled is not None and self.labelled_head is None:
            raise UserError(
                f"imbalance.labelled={self.labelled} needs imbalance.labelled_head, the labelled images of "
                "the first class"
            )
        if self.reversed and self.unlabelled is None:
            raise UserError("imbalance.reversed=true needs imbalance.unlabelled, a number from 1")

    @staticmethod
    def of(given: Imbalance | Mapping[str, Any] | None) -> Imbalance | None:
        """Return what a configuration says.

        Args:
            given: The arguments by name, or the object itself.

        Returns:
            The imbalance; None where no long tail is asked for.

        Raises:
            UserError: It is no mapping, or a key or a value is not legal.
        """
        if isinstance(given, Mapping):
            check_keys("imbalance", given, [field.name for field in fields(Imbalance)])
            given = Imbalance(**given)
        if given is not None and not isinstance(given, Imbalance):
            raise UserError(f"imbalance={given!r} is not legal: give {{labelled: GAMMA, labelled_head: NUMBER}}")
        return None if given in {None, Imbalance()} else given

    def labels_per_class(self, available: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many images of each class are labelled.

        Args:
            available: ``(K,)`` int64, the images of each class in the pool.

        Returns:
            ``(K,)`` int64.

        Raises:
            UserError: A class has too few images, or would get no label.
        """
        if self.labelled is None or self.labelled_head is None:
            raise ValueError("no long tail of labelled images is asked for")
        sizes = long_tail(head=self.labelled_head, gamma=self.labelled, num_classes=len(available))
        if sizes.min() < 1:
            raise UserError(
                f"imbalance.labelled={self.labelled} leaves class {int(sizes.argmin())} (they count from 0) "
                f"without a label: give imbalance.labelled_head={int(np.ceil(self.labelled))} or more"
            )
        _check_available("labelled", sizes, available)
        return sizes

    def pool_per_class(self, available: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many images of each class are in the unlabelled pool beside the labelled ones.

        Args:
            available: ``(K,)`` int64, the images of each class that are neither labelled nor held out.

        Returns:
            ``(K,)`` int64.

        Raises:
            UserError: A class has too few images.
        """
        if self.unlabelled is None:
            return available
        order = slice(None, None, -1 if self.reversed else None)
        shares = float(self.unlabelled) ** -(np.arange(len(available)) / (len(available) - 1))
        head = self.unlabelled_head
        if head is None:
            head = int(np.floor((available[order] / shares).min() + _ROUNDING))
        sizes = long_tail(head=head, gamma=self.unlabelled, num_classes=len(available))[order]
        if not sizes.any():
            raise UserError(
                f"imbalance.unlabelled={self.unlabelled} leaves no image to the unlabelled pool: class "
                f"{int(available.argmin())} (they count from 0) has {int(available.min())} that are neither labelled "
                "nor held out"
            )
        _check_available("unlabelled", sizes, available)
        return sizes


def _check_available(part: str, sizes: NDArray[np.int64], available: NDArray[np.int64]) -> None:
    short = np.flatnonzero(sizes > available)
    if len(short):
        k = int(short[0])
        raise UserError(
            f"imbalance.{part}_head is too large: class {k} (they count from 0) needs {int(sizes[k])} {part} "
            f"images and has {int(available[k])}"
        )
