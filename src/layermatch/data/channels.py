"""The mean and the standard deviation of each channel: given, wanted by weights, known of a split, or measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from layermatch.data.images import Images
from layermatch.errors import UserError, check_number

__all__ = ["ChannelNumbers", "measure_channels"]


class ChannelNumbers:
    """The numbers that images are normalised with.

    Args:
        mean: The mean of each channel, in ``[0, 1]``; None is filled in.
        std: The standard deviation of each channel, above 0; None is filled in.
        wanted: Functions by the names ``mean`` and ``std``, from the number of channels to what weights want;
            None has none.

    Raises:
        UserError: A number is out of range.

    Example:
        >>> from layermatch.data.images import ArrayImages
        >>> numbers = ChannelNumbers(mean=[0.5], std=None)
        >>> grey = ArrayImages(np.full((2, 1, 8, 8), 51, np.uint8))
        >>> sorted(numbers.fill_in(grey, known={})), numbers.mean
        (['std'], (0.5,))
    """

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        wanted: Mapping[str, Callable[[int], tuple[float, ...]]] | None = None,
    ) -> None:
        self.mean, self.std = _listed("mean", mean), _listed("std", std)
        for number in self.mean:
            check_number("mean", number, low=0, high=1)
        for number in self.std:
            check_number("std", number, low=0, low_open=True)
        self.wanted = dict(wanted or {})

    def fill_in(self, images: Images, *, known: Mapping[str, Any]) -> dict[str, list[float]]:
        """Find the numbers that were not given.

        Args:
            images: The images that they are measured on.
            known: What a split says of them, by name; it may say nothing.

        Returns:
            The numbers that were neither given nor wanted by weights, by name.

        Raises:
            UserError: There are not as many numbers as channels.
        """
        channels = images.shape[0]
        measured: dict[str, list[float]] = {}
        computed: tuple[tuple[float, ...], ...] = ()
        for place, name in enumerate(("mean", "std")):
            if getattr(self, name):
                continue
            if name in self.wanted:
                setattr(self, name, self.wanted[name](channels))
                continue
            numbers = tuple(known.get(name, ()))
            if len(numbers) != channels:
                computed = computed or measure_channels(images)
                numbers = computed[place]
            setattr(self, name, numbers)
            measured[name] = list(numbers)
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) != channels:
                raise UserError(
                    f"{name}={list(numbers)} is not legal: give a number for each of the {channels} channels"
                )
        return measured


def measure_channels(images: Images, *, limit: int = 10_000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel over all pixels, in ``[0, 1]``.

    Args:
        images: The images; of more than ``limit`` as many, spread evenly, are read.
        limit: The images that are read at most.
    """
    index = np.unique(np.linspace(0, len(images) - 1, num=min(limit, len(images))).astype(np.int64))
    sums = np.zeros((2, images.shape[0]))
    for part in np.array_split(index, -(-len(index) // 500)):
        pixels = images.read(part).astype(np.float64) / 255
        sums += [pixels.mean(axis=(2, 3)).sum(axis=0), np.square(pixels).mean(axis=(2, 3)).sum(axis=0)]
    mean, square = sums / len(index)
    deviation = np.sqrt(np.maximum(square - np.square(mean), 1e-12))  # images of one colour cannot be scaled
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _listed(name: str, value: Any) -> tuple[float, ...]:
    value = () if value is None else value
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{name}={value!r} is not legal: give a list with one number for each channel")
    return tuple(value)
