"""CR-Match's equation: features that tell the views of an image apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["feature_distance_loss"]


def feature_distance_loss(strong: Tensor, weak: Tensor, weight: Tensor, *, clamped: bool = True) -> Tensor:
    r"""Return the mean cosine of the features of two views, which learning makes small.

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
