"""What the backbones of all libraries have in common: their options, and what their weights want."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from layermatch.errors import UserError, check_number
from layermatch.networks.pretrained.network import PretrainedNetwork
from layermatch.networks.pretrained.tuning import Tuning
from layermatch.networks.pretrained.weight_files import WeightFile

__all__ = ["CACHE", "HUB", "PACKAGE", "Options", "Wanted", "refused_by", "stem_for", "unknown_name"]

#: Values of `weights` that are no file: the hub's weights, downloaded where they are not in its cache; those of the
#: cache alone; those of a Python package.
HUB, CACHE, PACKAGE = "hub", "cache", "package"


@dataclass(frozen=True)
class Wanted:
    """What pretrained weights want images to be.

    Args:
        mean: The mean of red, green and blue, in ``[0, 1]``.
        std: The standard deviation of red, green and blue, above 0.
        image_size: The height and width in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def of_channels(self, channels: int) -> Wanted:
        """Return the same for images of another number of channels, as their weights are made of those for colours.

        A grey image has the mean of all three, and a fourth channel is a second red, as in timm.

        Args:
            channels: C, at least 1.

        Example:
            >>> Wanted((0.3, 0.4, 0.5), (0.2, 0.2, 0.2), 224).of_channels(4).mean
            (0.3, 0.4, 0.5, 0.3)
        """
        return replace(self, mean=_of_channels(self.mean, channels), std=_of_channels(self.std, channels))


def _of_channels(numbers: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if channels == 1:
        return (sum(numbers) / len(numbers),)
    return tuple(numbers[channel % len(numbers)] for channel in range(channels))


@dataclass(frozen=True)
class Options:
    """What all backbones have in common."""

    name: str
    num_classes: int | None
    in_channels: int
    image_size: int | None
    weights: object
    resize: int | None
    tuning: Tuning

    def __post_init__(self) -> None:
        check_number("in_channels", self.in_channels, low=1, integer=True)
        for key, value in (("image_size", self.image_size), ("resize", self.resize)):
            if value is not None:
                check_number(key, value, low=1, integer=True)

    @property
    def side(self) -> int | None:
        """The height and width that the extractor sees; None where nobody has said it."""
        return self.resize or self.image_size

    def network(
        self, extractor: nn.Module, *, library: str, wanted: Wanted | None, origin: WeightFile | None, side: int
    ) -> PretrainedNetwork:
        """Make the network of an extractor with its weights."""
        title = f"{library}'s {self.name}"
        images = torch.zeros(1, self.in_channels, side, side)
        extractor.eval()
        with refused_by(library, self.name, channels=self.in_channels, side=side, weights=None), torch.no_grad():
            _check_patches(extractor, side)
            features = extractor(images)
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise UserError(f"name={self.name} is not legal: {title} does not give one row of features for each image")
        learning = self.tuning.apply(extractor, images, title=title)
        extractor.train()
        wanted = None if wanted is None else wanted.of_channels(self.in_channels)
        return PretrainedNetwork(
            extractor,
            num_features=features.shape[1],
            num_classes=self.num_classes,
            learning=learning.names,
            origin=origin,
            title=title,
            mean=None if wanted is None else wanted.mean,
            std=None if wanted is None else wanted.std,
            image_size=None if wanted is None else wanted.image_size,
            resize=self.resize,
            notes=self._notes(title, origin=origin, side=side, passed_over=learning.passed_over),
        )

    def _notes(self, title: str, *, origin: WeightFile | None, side: int, passed_over: Sequence[str]) -> dict[str, str]:
        resized = f", resized to {self.resize}x{self.resize} inside" if self.resize else f" of {side}x{side} pixels"
        weights = "random" if origin is None else f"{origin.path.name} (model.weights={self.weights})"
        learns = self.tuning.title
        if passed_over:
            learns += f"; not on {', '.join(passed_over)}, which it cannot be added to"
        return {"backbone": f"{title}, images{resized}", "weights": weights, "what learns": learns}


def _check_patches(extractor: nn.Module, side: int) -> None:
    """Refuse images of which a vision transformer would leave the edge out."""
    patch = getattr(getattr(extractor, "patch_embed", None), "patch_size", None)
    patch = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(patch, int) and side % patch:
        raise ValueError(f"the side is no multiple of its patches of {patch}")


@contextmanager
def refused_by(library: str, name: str, *, channels: int, side: int, weights: object) -> Iterator[None]:
    """Say in one line what a library raises at a size, or at weights, that do not fit."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:160]
        if weights is not None:
            raise UserError(f"weights={weights} does not fit {library}'s {name}: {reason}") from error
        raise UserError(
            f"name={name} does not read images of {channels}x{side}x{side}: {reason or type(error).__name__}: give "
            "other images, or resize=PIXELS"
        ) from error


def unknown_name(library: str, name: object, legal: Sequence[str]) -> UserError:
    """Return the error of a name that a library does not have, with those that are near to it.

    Args:
        library: The name of the library.
        name: What was given.
        legal: The names that it has.
    """
    near = difflib.get_close_matches(str(name), legal, n=3, cutoff=0.5) or list(legal[:3])
    return UserError(f"name={name!r} is not legal: {library} has no such backbone: it has {', '.join(near)} and others")


def stem_for(weight: Tensor, wanted: Tensor) -> Tensor:
    """Return the weight of a first convolution for images of another number of channels, as timm makes it.

    Args:
        weight: The weight that there is, ``(D, C, H, W)``.
        wanted: The weight that it is put in the place of, with the channels that images have.
    """
    channels, before = wanted.shape[1], weight.shape[1]
    if channels == before:
        return weight
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % before for channel in range(channels)]] * (before / channels)
