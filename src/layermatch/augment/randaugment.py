"""RandAugment of TorchSSL and USB: the named table of operations, and the dispatcher of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from layermatch.augment import geometry, ops
from layermatch.errors import UserError, check_choice

__all__ = ["OPERATIONS", "RANDAUGMENT", "Operation", "apply_operation", "rand_augment"]


class Operation(NamedTuple):
    """A batched operation and the range its magnitude is drawn from.

    Attributes:
        function: It maps uint8 images (N, C, H, W) and magnitudes (N,) to new uint8 images (N, C, H, W).
        low: The smallest magnitude.
        high: The largest magnitude.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    low: float
    high: float


#: Every operation by name. Ranges as in TorchSSL and USB (``randaugment.py``, the same in both). Where the
#: range is 0 .. 1 the magnitude has no effect. ``invert`` is defined there, but not one of the 14 they draw.
OPERATIONS: dict[str, Operation] = {
    "autocontrast": Operation(ops.autocontrast, 0.0, 1.0),
    "brightness": Operation(ops.brightness, 0.05, 0.95),  # weight of the image; never above 0.95: only darker
    "color": Operation(ops.color, 0.05, 0.95),  # weight of the image: only paler
    "contrast": Operation(ops.contrast, 0.05, 0.95),  # weight of the image: only flatter
    "equalize": Operation(ops.equalize, 0.0, 1.0),
    "identity": Operation(ops.identity, 0.0, 1.0),
    "posterize": Operation(ops.posterize, 4.0, 8.0),  # bits kept, cut to a whole number
    "rotate": Operation(geometry.rotate, -30.0, 30.0),  # degrees, counter-clockwise
    "sharpness": Operation(ops.sharpness, 0.05, 0.95),  # weight of the image: only smoother
    "shear_x": Operation(geometry.shear_x, -0.3, 0.3),  # columns per row
    "shear_y": Operation(geometry.shear_y, -0.3, 0.3),  # rows per column
    "solarize": Operation(ops.solarize, 0.0, 256.0),  # threshold
    "translate_x": Operation(geometry.translate_x, -0.3, 0.3),  # fraction of the width
    "translate_y": Operation(geometry.translate_y, -0.3, 0.3),  # fraction of the height
    "invert": Operation(ops.invert, 0.0, 1.0),
}

#: The 14 operations that TorchSSL and USB draw from.
RANDAUGMENT: tuple[str, ...] = tuple(name for name in OPERATIONS if name != "invert")


def apply_operation(name: str, images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Apply one operation to every image of a batch, for a figure or a test.

    Args:
        name: A key of :data:`OPERATIONS`.
        images: uint8 (N, C, H, W), C 1 or 3.
        magnitude: One number for all samples or a tensor (N,), within the operation's range.

    Returns:
        uint8 (N, C, H, W), a new tensor on the same device.

    Raises:
        UserError: The name is unknown, the images are illegal, or the magnitude has another shape or is out of range.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
        >>> apply_operation("brightness", images, 0.5)[0, 0, 0, 0].item()
        50
        >>> apply_operation("brightness", images, 2.0)
        Traceback (most recent call last):
        layermatch.errors.UserError: magnitude of brightness outside its range: give 0.05 to 0.95
    """
    check_choice("operation", name, tuple(OPERATIONS))
    ops.check_images(images)
    function, low, high = OPERATIONS[name]
    magnitudes = torch.as_tensor(magnitude, dtype=torch.float64)
    if magnitudes.ndim == 0:
        magnitudes = magnitudes.expand(len(images))
    if magnitudes.shape != (len(images),):
        raise UserError(
            f"magnitude of shape {tuple(magnitudes.shape)} is not legal: give one number or ({len(images)},)"
        )
    slack = 1e-6 * (high - low)  # -0.3 in float32 lies a little below -0.3
    if not bool(((magnitudes >= low - slack) & (magnitudes <= high + slack)).all()):
        raise UserError(f"magnitude of {name} outside its range: give {low:g} to {high:g}")
    return function(images, magnitudes)


def rand_augment(images: Tensor, *, choice: Tensor, uniform: Tensor, operations: Sequence[str]) -> Tensor:
    """Apply to every sample its own operations, one after the other, each with its own magnitude.

    In each slot the samples are grouped by the operation they drew, so that an operation runs once, on its
    samples alone. The group sizes must be known to the host: choices on a GPU are waited for.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3, contiguous; is modified in place.
        choice: int64 (N, S), which of ``operations`` sample n has in slot s.
        uniform: float (N, S) in [0, 1), mapped to low + (high - low) * u of the operation's range.
        operations: The names, keys of :data:`OPERATIONS`; a name may be repeated to be drawn more often.

    Returns:
        ``images``.

    Example:
        >>> images = torch.tensor([10, 20], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> choice, uniform = torch.tensor([[1], [0]]), torch.zeros(2, 1)
        >>> names = ("identity", "invert")
        >>> rand_augment(images, choice=choice, uniform=uniform, operations=names).flatten().tolist()
        [245, 20]
    """
    if len(images) == 0:
        return images
    choice, uniform = choice.cpu(), uniform.cpu().to(torch.float64)
    pixels = _as_words(images)
    for slot in range(choice.shape[1]):
        members = choice[:, slot].argsort(stable=True)  # samples, grouped by operation
        counts = choice[:, slot].bincount(minlength=len(operations)).tolist()
        draws = torch.split(uniform[members, slot], counts)
        groups = torch.split(members.to(images.device, non_blocking=True), counts)
        for name, group, draw in zip(operations, groups, draws, strict=True):
            if len(group) and name != "identity":
                function, low, high = OPERATIONS[name]
                result = function(images.index_select(0, group), low + (high - low) * draw)
                pixels.index_copy_(0, group, _as_words(result))
    return images


def _as_words(images: Tensor) -> Tensor:
    """View samples as rows, of int64 where their size allows it: ten times faster to write back on a CPU."""
    rows = images.view(len(images), -1)
    return rows.view(torch.int64) if rows.shape[1] % 8 == 0 else rows
