"""Images of which a part is another image, made smaller: ResizeMix, and the targets that go with them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Box", "own_share", "partners_of_class", "paste_resized", "resize_box", "weighted_squared_error"]


class Box(NamedTuple):
    """A box of pixels, from its first row and column to before its last.

    Attributes:
        top: The first row.
        bottom: The row after the last.
        left: The first column.
        right: The column after the last.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """The rows of the box."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """The columns of the box."""
        return self.right - self.left


def resize_box(*, height: int, width: int, scale: float, centre: tuple[int, int]) -> Box:
    r"""Return a box around a pixel, cut off at the borders of the image.

    Its half sides are :math:`\lfloor \lfloor \tau H \rfloor / 2 \rfloor` and
    :math:`\lfloor \lfloor \tau W \rfloor / 2 \rfloor`, so a small image may have a box without a pixel. Source:
    ResizeMix (Qin et al. 2020, arXiv 2012.11101) in the code of RegMixMatch.

    Args:
        height: H, in pixels.
        width: W, in pixels.
        scale: ``tau``, the sides of the box as a share of the image's, in ``[0, 1]``.
        centre: Row and column of its middle, in ``[0, H)`` and ``[0, W)``.

    Example:
        >>> resize_box(height=8, width=8, scale=0.5, centre=(1, 4))
        Box(top=0, bottom=3, left=2, right=6)
    """
    row, column = centre
    half_height, half_width = math.floor(scale * height) // 2, math.floor(scale * width) // 2
    return Box(
        max(row - half_height, 0),
        min(row + half_height, height),
        max(column - half_width, 0),
        min(column + half_width, width),
    )


def own_share(box: Box, *, height: int, width: int) -> float:
    r"""Return the share of an image's pixels that are its own, :math:`\lambda`, where a box of it is another's.

    Args:
        box: The box.
        height: H, in pixels.
        width: W, in pixels.

    Example:
        >>> own_share(Box(0, 4, 0, 4), height=8, width=8)
        0.75
    """
    return 1 - box.height * box.width / (height * width)


def paste_resized(images: Tensor, others: Tensor, box: Box, *, crop: float = 0.9) -> Tensor:
    """Return images with the middle of another image of the same size, made smaller, in a box.

    The other image is resized by its nearest pixels. Source: ResizeMix (Qin et al. 2020) in the code of RegMixMatch.

    Args:
        images: ``(N, C, H, W)`` float.
        others: ``(N, C, H, W)``, the other image of each.
        box: The place where it goes; where the box has no pixel, images stay as they are.
        crop: The share of the other's sides that is its middle, in ``(0, 1]``.

    Returns:
        ``(N, C, H, W)``; ``images`` are not changed.

    Example:
        >>> paste_resized(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), Box(0, 1, 0, 2), crop=1.0)
        tensor([[[[1., 1.],
                  [0., 0.]]]])
    """
    if not box.height or not box.width or not len(images):
        return images
    height, width = images.shape[-2:]
    rows, columns = max(int(height * crop), 1), max(int(width * crop), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = others[..., top : top + rows, left : left + columns]
    pasted = images.clone()
    pasted[..., box.top : box.bottom, box.left : box.right] = F.interpolate(
        middle, (box.height, box.width), mode="nearest"
    )
    return pasted


def partners_of_class(label: Tensor, candidates: Tensor, draws: Tensor) -> Tensor:
    """Return a candidate of the same class for each row, every one of them as likely as another.

    Args:
        label: ``(N,)`` int64, the class of each row.
        candidates: ``(M,)`` int64, that of each candidate.
        draws: ``(N,)`` float in ``[0, 1)``.

    Returns:
        ``(N,)`` int64, positions among the candidates; -1 where none is of the class.

    Example:
        >>> partners_of_class(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 1]), torch.tensor([0.9, 0.9, 0.9]))
        tensor([ 1,  2, -1])
    """
    same = label[:, None] == candidates[None, :]  # (N, M)
    counts = same.sum(dim=1)
    # In float64, as a draw just below 1 in float32, times a count, may be rounded to the count itself.
    wanted = (draws.double() * counts).long()
    if not len(candidates):
        return wanted.new_full(label.shape, -1)
    found = (same & (same.cumsum(dim=1) == wanted[:, None] + 1)).int().argmax(dim=1)
    return torch.where(counts > 0, found, -1)


def weighted_squared_error(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    r"""Return the mean squared difference of probabilities, each image by its weight.

    .. math:: L = \frac{1}{N} \sum_i w_i \, \frac{1}{K} \sum_k \left(\mathrm{softmax}(\ell_i)_k - q_{ik}\right)^2

    Source: the loss of class-aware mixtures of RegMixMatch (Han et al. 2025, arXiv 2412.10741).

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays). The gradient goes here.
        target: ``(N, K)`` float probabilities q, without a gradient.
        weight: ``(N,)`` float, at least 0, without a gradient.

    Returns:
        A scalar, 0 where there is no image.

    Example:
        >>> weighted_squared_error(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([0.5]))
        tensor(0.1250)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    errors = (logits.softmax(dim=-1) - target).square().mean(dim=-1)
    return (weight * errors).sum() / max(len(logits), 1)
