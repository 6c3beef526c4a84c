"""Smaller batches and smaller images in the first parts of a run: less work while the network knows little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from layermatch.components import check_keys
from layermatch.errors import UserError, check_number

__all__ = ["BatchSizes", "Ramp"]

#: Parts of a run: each ends at a share of the run, and has a value.
Parts = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Ramp:
    """What the batches of a run are until they are what the data module's other settings say.

    Each is a list of pairs ``[until, value]``: to that share of the run, from the end of the pair before, the value
    holds. After the last pair, and where there is none, batches are whole.

    Args:
        batch_size: The share of ``batch_size`` that a batch has, in ``(0, 1]``; at least one labelled image stays. The
            unlabelled images are fewer with it.
        mu: The unlabelled images per labelled one, at least 1, in the place of ``mu``.
        side: The share of the images' height and width that training images are reduced to before their views are
            made, in ``(0, 1]`` (Howard 2018, "progressive resizing"; EfficientNetV2, Tan and Le 2021). Evaluation
            images stay whole. The network must take images of any size, as those of this package do.

    Raises:
        UserError: A list is none of such pairs, its ends do not rise, or a value is out of range.

    Example:
        >>> Ramp(mu=[[0.25, 1], [0.5, 3]], side=[[0.5, 0.75]])
        Ramp(batch_size=(), mu=((0.25, 1), (0.5, 3)), side=((0.5, 0.75),))
    """

    batch_size: Parts | None = ()
    mu: Parts | None = ()
    side: Parts | None = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            name, given = f"ramp.{field.name}", getattr(self, field.name)
            object.__setattr__(self, field.name, _checked_parts(name, () if given is None else given))
        for name in ("batch_size", "side"):
            for _, value in self.parts(name):
                check_number(f"ramp.{name}", value, low=0, low_open=True, high=1)
        for _, value in self.parts("mu"):
            check_number("ramp.mu", value, low=1, integer=True)

    @staticmethod
    def of(given: Ramp | Mapping[str, Any] | None) -> Ramp:
        """Return what a configuration says.

        Args:
            given: The arguments by name, or the object itself; None is whole batches from the start.

        Raises:
            UserError: It is no mapping, or a key or a value is not legal.
        """
        if isinstance(given, Mapping):
            check_keys("ramp", given, [field.name for field in fields(Ramp)])
            return Ramp(**given)
        if given is not None and not isinstance(given, Ramp):
            raise UserError(f"ramp={given!r} is not legal: give batch_size, mu and side by name, or null")
        return given or Ramp()

    def parts(self, name: str) -> tuple[tuple[float, float], ...]:
        """Return the pairs of one of the settings."""
        parts: tuple[tuple[float, float], ...] = getattr(self, name)
        return parts

    @property
    def is_empty(self) -> bool:
        """Whether batches are whole from the start."""
        return not (self.batch_size or self.mu or self.side)

    def text(self) -> str:
        """Say it, for people.

        Example:
            >>> Ramp(mu=[[0.5, 1]], side=[[0.25, 0.5], [0.5, 0.75]]).text()
            'mu 1 until 50 %; side x 0.5 until 25 %, x 0.75 until 50 %'
        """
        told = []
        for name in (field.name for field in fields(self)):
            times = "" if name == "mu" else "x "
            parts = [f"{times}{value:g} until {100 * until:g} %" for until, value in self.parts(name)]
            told += [f"{name} {', '.join(parts)}"] if parts else []
        return "; ".join(told)


def _checked_parts(name: str, given: object) -> tuple[tuple[float, float], ...]:
    legal = "give a list of [UNTIL, VALUE], UNTIL rising shares of the run above 0 and at most 1, or null"
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in given):  # type: ignore[attr-defined]
        raise UserError(f"{name}={given!r} is not legal: {legal}")
    parts = tuple((until, value) for until, value in given)  # type: ignore[attr-defined]
    for until, _ in parts:
        check_number(f"{name}: UNTIL", until, low=0, low_open=True, high=1)
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(parts)):
        raise UserError(f"{name}={given!r} is not legal: {legal}")
    return parts


@dataclass(frozen=True)
class BatchSizes:
    """How large each batch of a run is: a pure function of its number, as everything in a batch is.

    Args:
        batch_size: The labelled images of a whole batch, on each device.
        mu: The unlabelled images per labelled one.
        ramp: What the first batches are.
        num_batches: The batches of the run, which the ramp's shares are of: optimizer steps times accumulated batches.
            None where nobody knows, which goes with an empty ramp alone.

    Raises:
        UserError: There is a ramp, and nobody knows how long the run is.

    Example:
        >>> sizes = BatchSizes(8, 7, Ramp(batch_size=[[0.5, 0.5]], mu=[[0.5, 1]]), num_batches=10)
        >>> sizes.of(4), sizes.of(5), sizes.images_before(6)
        ((4, 4), (8, 56), (28, 76))
    """

    batch_size: int
    mu: int
    ramp: Ramp
    num_batches: int | None = None

    def __post_init__(self) -> None:
        if not self.ramp.is_empty and (self.num_batches is None or self.num_batches < 1):
            raise UserError("ramp is of shares of a run, and its length is not known: give num_batches=NUMBER")

    def of(self, batch: int) -> tuple[int, int]:
        """Return the labelled and the unlabelled images of a batch, on each device.

        Args:
            batch: The number of the batch, from 0.
        """
        share = self._value("batch_size", batch, 1)
        labelled = max(1, round(share * self.batch_size))
        return labelled, labelled * int(self._value("mu", batch, self.mu))

    def images_before(self, batch: int) -> tuple[int, int]:
        """Return the labelled and the unlabelled images of all batches before one, on each device.

        Args:
            batch: The number of the batch, from 0.
        """
        ends = {self._end(until) for name in ("batch_size", "mu") for until, _ in self.ramp.parts(name)}
        borders = [0, *sorted(end for end in ends if 0 < end < batch), batch]
        labelled = unlabelled = 0
        for begin, end in pairwise(borders):
            of_labelled, of_unlabelled = self.of(begin)
            labelled += (end - begin) * of_labelled
            unlabelled += (end - begin) * of_unlabelled
        return labelled, unlabelled

    def image_size(self, batch: int, shape: tuple[int, int, int]) -> tuple[int, int] | None:
        """Return the height and width that the images of a batch are reduced to; None where they stay as they are.

        Args:
            batch: The number of the batch, from 0.
            shape: ``(C, H, W)`` of the images.
        """
        share = self._value("side", batch, 1)
        return reduced(shape, share) if share < 1 else None

    def _value(self, name: str, batch: int, default: float) -> float:
        return next((value for until, value in self.ramp.parts(name) if batch < self._end(until)), default)

    def _end(self, until: float) -> int:
        """Return the first batch that is no more of the part of the run until a share of it."""
        return round(until * (self.num_batches or 0))


def reduced(shape: tuple[int, int, int], share: float) -> tuple[int, int]:
    """Return height and width of a reduced image, at least one pixel.

    Args:
        shape: ``(C, H, W)`` of the image.
        share: The share of its height and width, in ``(0, 1]``.

    Example:
        >>> reduced((3, 32, 48), 0.75)
        (24, 36)
    """
    _, height, width = shape
    return max(1, round(share * height)), max(1, round(share * width))
