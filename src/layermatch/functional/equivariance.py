"""CR-Match's equations: features that tell the views of an image apart, and quarter turns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["feature_distance_loss", "quarter_turns"]


def feature_distance_loss(strong: Tensor, weak: Tensor, weight: Tensor, *, clamped: bool = True) -> Tensor:
    r"""Mean cosine of the features of two views, which learning makes small.

    .. math:: L_d = \frac{1}{N} \sum_u m_u \max(0, \cos(z^s_u, z^w_u))

    Source: FeatDistLoss of CR-Match (Fan, Kukleva and Schiele 2021), as in USB.

    Args:
        strong: ``(N, D)``, any float dtype, features of the strong views; computed in float32 (float64 stays).
        weak: ``(N, D)``, likewise of the weak views. The gradient goes to both, where they carry one.
        weight: ``(N,)`` float in ``[0, 1]``.
        clamped: Whether a pair that points in opposite directions already counts as 0; False leaves the maximum out.

    Returns:
        A scalar; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> import torch
        >>> feature_distance_loss(torch.eye(2), torch.ones(2, 2), torch.tensor([1.0, 0.0]))
        tensor(0.3536)
    """
    dtype = torch.promote_types(torch.promote_types(strong.dtype, weak.dtype), torch.float32)
    cosine = F.cosine_similarity(strong.to(dtype), weak.to(dtype), dim=1)
    if clamped:
        cosine = cosine.clamp(min=0)
    return (weight * cosine).sum() / max(len(cosine), 1)


def quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    r"""Images turned by 0, 90, 180 and 270 degrees, and by how many quarters each is turned.

    Source: Gidaris et al. 2018, which CR-Match and ReMixMatch take over.

    Args:
        images: ``(N, C, S, S)``: square.

    Returns:
        ``(4 N, C, S, S)``, all images for each turn, and ``(4 N,)`` int64 in ``[0, 4)``.

    Example:
        >>> import torch
        >>> turned, turns = quarter_turns(torch.tensor([[[[0, 1], [2, 3]]]]))
        >>> turned[:, 0].tolist(), turns
        ([[[0, 1], [2, 3]], [[1, 3], [0, 2]], [[3, 2], [1, 0]], [[2, 0], [3, 1]]], tensor([0, 1, 2, 3]))
    """
    turned = torch.cat([images.rot90(quarters, dims=(2, 3)) for quarters in range(4)])
    return turned, torch.arange(4, device=images.device).repeat_interleave(len(images))
