"""Weak and strong views of a whole batch on its device. No randomness here: it comes in as uniforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layermatch.augment import geometry
from layermatch.augment.ops import check_images, exact_device
from layermatch.augment.randaugment import OPERATIONS, RANDAUGMENT, rand_augment
from layermatch.errors import UserError, check_bool, check_choice, check_number

__all__ = ["PlainView", "StrongView", "WeakView"]

#: The columns of a random box, and the narrowest one: three wide and four high, as torchvision's.
_OF_AREA, _NARROWEST = ("area", "ratio"), 3 / 4


class PlainView:
    """The image as it is, as evaluation sees it.

    Example:
        >>> images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
        >>> bool((PlainView()(images, torch.zeros(2, 0)) == images).all())
        True
    """

    #: Uniforms per sample.
    num_draws = 0

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:  # noqa: ARG002 -- what every view is called with
        """Return the images.

        Args:
            images: uint8 (N, C, H, W), C 1 or 3.
            draws: float (N, 0).

        Raises:
            UserError: Illegal images.
        """
        check_images(images)
        return images

    def __repr__(self) -> str:
        return "PlainView()"


class WeakView:
    """Random crop after reflection padding, then a horizontal flip with probability one half.

    The weak view of FixMatch (Sohn et al. 2020) as in USB: ``round(pad * side)`` pixels are added on each side,
    4 at 32 and 12 at 96. A pure function of (images, draws); sample n uses row n of the draws, nothing else.

    ========== =========== ====================================================================
    column     name        use of the uniform u
    ========== =========== ====================================================================
    0          crop_y      first row of the crop, floor(u * (2 * padding + 1))
    1          crop_x      first column of the crop, likewise
    2          flip        mirrored if u < 0.5; not read if ``flip`` is false
    last - 1   area        share of the area that is kept, area + (1 - area) * u
    last       ratio       width to height of what is kept, (3/4)^(1 - 2u)
    ========== =========== ====================================================================

    The last two are there if ``area`` is below 1. Then a random box is enlarged to the whole, as in Inception's crops
    (Szegedy et al. 2015; torchvision's ``RandomResizedCrop``), in the place of the crop after padding: for pictures
    whose objects differ in size. The first two columns are then its place. A box that would be wider or higher than the
    image is cut there, where torchvision draws again.

    Args:
        flip: Whether to flip.
        pad: Padding as a fraction of the side, in [0, 1); not used if ``area`` is below 1.
        area: Smallest share of the image's area that is kept, in (0, 1]; 1 crops after padding instead.

    Raises:
        UserError: An argument out of range.

    Example:
        >>> view = WeakView()
        >>> view
        WeakView(flip=True, pad=0.125)
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> view(images, torch.rand(2, view.num_draws)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, *, flip: bool = True, pad: float = 0.125, area: float = 1.0) -> None:
        check_bool("flip", flip)
        check_number("pad", pad, low=0, high=1, high_open=True)
        check_number("area", area, low=0, high=1, low_open=True)
        self.flip = flip
        self.pad = pad
        self.area = area

    @property
    def columns(self) -> tuple[str, ...]:
        """What each column of the draws decides."""
        return (*self._columns, *(_OF_AREA if self.area < 1 else ()))

    @property
    def _columns(self) -> tuple[str, ...]:
        """The columns without those of ``area``."""
        return ("crop_y", "crop_x", "flip")

    @property
    def num_draws(self) -> int:
        """Uniforms per sample."""
        return len(self.columns)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Make the view.

        Args:
            images: uint8 (N, C, H, W), C 1 or 3; is not modified.
            draws: float (N, num_draws) in [0, 1).

        Returns:
            uint8 (N, C, H, W) on the device of ``images``.

        Raises:
            UserError: Illegal images or draws, or images smaller than the padding allows.
        """
        self._check(images, draws)
        return self._make(images, draws)

    def __repr__(self) -> str:
        return f"WeakView({self._geometry_text()})"

    def _geometry_text(self) -> str:
        area = f", area={self.area}" if self.area < 1 else ""
        return f"flip={self.flip}, pad={self.pad}{area}"

    def _check(self, images: Tensor, draws: Tensor) -> None:
        check_images(images)
        height, width = images.shape[2:]
        if self.area < 1:
            self._check_draws(images, draws)
            return
        if round(self.pad * height) >= height or round(self.pad * width) >= width:
            raise UserError(
                f"images of {height}x{width} are too small for pad={self.pad}: "
                "reflection needs round(pad * side) below the side"
            )
        self._check_draws(images, draws)

    def _check_draws(self, images: Tensor, draws: Tensor) -> None:
        shape = (len(images), self.num_draws)
        if draws.shape != shape or not draws.is_floating_point():
            raise UserError(f"draws of shape {tuple(draws.shape)}, {draws.dtype}, are not legal: give floats {shape}")

    def _make(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return the view of images and draws that have been looked at."""
        height, width = images.shape[2:]
        draws = draws.to(exact_device(draws.device))
        mirror = (draws[:, 2] < 0.5) & self.flip
        if self.area < 1:
            return self._zoom_and_flip(images, draws, mirror)
        pad = (round(self.pad * height), round(self.pad * width))
        return geometry.crop_and_flip(
            images,
            top=_choose(draws[:, 0], 2 * pad[0] + 1),
            left=_choose(draws[:, 1], 2 * pad[1] + 1),
            mirror=mirror,
            pad=pad,
        )

    def _zoom_and_flip(self, images: Tensor, draws: Tensor, mirror: Tensor) -> Tensor:
        height, width = images.shape[2:]
        draws = draws.cpu().to(torch.float64)  # in this order: not every device has float64
        area = self.area + (1 - self.area) * draws[:, -2]
        ratio = _NARROWEST ** (1 - 2 * draws[:, -1])
        rows = (height * (area / ratio).sqrt()).round().clamp(1, height).to(torch.int64)
        columns = (width * (area * ratio).sqrt()).round().clamp(1, width).to(torch.int64)
        view = geometry.resized_crop(
            images,
            top=_choose_each(draws[:, 0], height - rows + 1),
            left=_choose_each(draws[:, 1], width - columns + 1),
            height=rows,
            width=columns,
        )
        return torch.where(mirror.to(view.device)[:, None, None, None], view.flip(3), view)


class StrongView(WeakView):
    """Weak view, then RandAugment, then Cutout: the strong view of TorchSSL and USB, in USB's order.

    ``num_ops`` operations are drawn with replacement, each with a magnitude uniform in its own range (see
    :data:`~layermatch.augment.OPERATIONS`); then a grey box of side v * width, v uniform in [0, ``cutout``),
    about a uniform centre. A sample's choices are its own; only samples that drew an operation pay for it.

    ============ ============= ==================================================================
    column       name          use of the uniform u
    ============ ============= ==================================================================
    0, 1, 2      as WeakView   the crop and the flip
    3 + 2k       operation_k   operation k = 0 .. num_ops - 1: floor(u * number of operations)
    4 + 2k       magnitude_k   its magnitude: low + (high - low) * u
    3 + 2num_ops cutout_size   side of the box: cutout * u * width
    4 + 2num_ops cutout_x      its centre: u * width
    5 + 2num_ops cutout_y      its centre: u * height
    ============ ============= ==================================================================

    The layout depends on ``num_ops``, and on ``area`` as in the weak view; a part that is switched off otherwise leaves
    its columns unread.

    NOTE: FixMatch's TensorFlow code draws 2 operations of another list; TorchSSL crops after the operations.

    Args:
        flip: Whether to flip.
        pad: Padding as a fraction of the side, in [0, 1); not used if ``area`` is below 1.
        area: Smallest share of the image's area that is kept, in (0, 1]; 1 crops after padding instead.
        num_ops: Operations per image, at least 0.
        cutout: Largest side of the box as a fraction of the width, in [0, 1]; 0 switches it off.
        operations: Names to draw from, at least one; a repeated name is drawn more often.

    Raises:
        UserError: An argument out of range.

    Example:
        >>> view = StrongView(num_ops=2, operations=("rotate", "solarize"))
        >>> view
        StrongView(flip=True, pad=0.125, num_ops=2, cutout=0.5, operations=('rotate', 'solarize'))
        >>> view.columns[3:7]
        ('operation_0', 'magnitude_0', 'operation_1', 'magnitude_1')
        >>> images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
        >>> view(images, torch.rand(2, view.num_draws)).dtype
        torch.uint8
    """

    def __init__(
        self,
        *,
        flip: bool = True,
        pad: float = 0.125,
        area: float = 1.0,
        num_ops: int = 3,
        cutout: float = 0.5,
        operations: Sequence[str] = RANDAUGMENT,
    ) -> None:
        super().__init__(flip=flip, pad=pad, area=area)
        check_number("num_ops", num_ops, low=0, integer=True)
        check_number("cutout", cutout, low=0, high=1)
        if isinstance(operations, str) or not operations:
            raise UserError(f"operations={operations!r} is not legal: give a list of at least one name")
        for name in operations:
            check_choice("operations", name, tuple(OPERATIONS))
        self.num_ops = num_ops
        self.cutout = cutout
        self.operations = tuple(operations)

    def with_ops(self, num_ops: int) -> StrongView:
        """Return the same view with another number of operations, as the medium view of SequenceMatch is with 1.

        Args:
            num_ops: Operations per image, at least 0.

        Raises:
            UserError: The number is out of range.

        Example:
            >>> StrongView(flip=False).with_ops(1)
            StrongView(flip=False, pad=0.125, num_ops=1, cutout=0.5, operations=RANDAUGMENT)
        """
        return StrongView(
            flip=self.flip,
            pad=self.pad,
            area=self.area,
            num_ops=num_ops,
            cutout=self.cutout,
            operations=self.operations,
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        slots = [f"{what}_{slot}" for slot in range(self.num_ops) for what in ("operation", "magnitude")]
        return (*super()._columns, *slots, "cutout_size", "cutout_x", "cutout_y")

    def _make(self, images: Tensor, draws: Tensor) -> Tensor:
        """Return the weak view, then operations and a grey box."""
        # One copy to the host, which must know the group sizes anyway; positions then agree on all devices.
        draws = draws.cpu()
        cropped = super()._make(images, draws)
        draws = draws[:, : len(self._columns)]
        choice, uniform = draws[:, 3:-3:2], draws[:, 4:-3:2]
        view = rand_augment(
            cropped,
            choice=_choose(choice, len(self.operations)),
            uniform=uniform,
            operations=self.operations,
        )
        if self.cutout == 0:
            return view
        size, x, y = draws[:, -3:].unbind(1)
        return geometry.cutout(view, size=size.to(torch.float64) * self.cutout, x=x, y=y)

    def __repr__(self) -> str:
        operations = "RANDAUGMENT" if self.operations == RANDAUGMENT else self.operations
        return (
            f"StrongView({self._geometry_text()}, num_ops={self.num_ops}, cutout={self.cutout}, "
            f"operations={operations})"
        )


def _choose(uniform: Tensor, count: int) -> Tensor:
    """Map uniforms to 0 .. count - 1, int64; in float64, where the product of a float32 is exact."""
    return (uniform.to(torch.float64) * count).to(torch.int64).clamp(max=count - 1)


def _choose_each(uniform: Tensor, count: Tensor) -> Tensor:
    """Return the same with a count of its own for each sample, (N,) int64."""
    return (uniform.to(torch.float64) * count).to(torch.int64).minimum(count - 1)
