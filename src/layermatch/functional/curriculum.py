"""FlexMatch's thresholds: a class that is learnt less well needs less confidence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["CURRICULUM_MAPPINGS", "curriculum_mapping", "last_of_each", "learning_status"]

#: From the status of a class to the share of the full threshold that it needs.
CURRICULUM_MAPPINGS = ("convex", "linear", "concave", "low_limit")


def learning_status(counts: Tensor, *, warmup: bool = True) -> Tensor:
    r"""Return how well each class is learnt, by how many images were last predicted as it with confidence.

    .. math:: \beta_c = \frac{\sigma_c}{\max_k \sigma_k}, \qquad \text{with warm-up} \quad
        \beta_c = \frac{\sigma_c}{\max\left(\max_k \sigma_k, \; U - \sum_k \sigma_k\right)}

    Images without a confident prediction yet keep all thresholds low at the start.

    Source: FlexMatch (Zhang et al. 2021, sections 3.1 and 3.2).

    Args:
        counts: ``(K + 1,)`` int64: ``sigma_c`` of each class, and last the number of images without a prediction.
        warmup: Whether those without one have part in the maximum.

    Returns:
        ``beta``, ``(K,)`` float64 in ``[0, 1]``; 0 where there is no prediction at all.

    Example:
        >>> learning_status(torch.tensor([4, 2, 0, 8])), learning_status(torch.tensor([4, 2, 0, 8]), warmup=False)
        (tensor([0.5000, 0.2500, 0.0000], dtype=torch.float64), tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64))
    """
    learnt = counts[:-1].double()
    largest = (counts if warmup else counts[:-1]).max()
    return learnt / largest.clamp(min=1)


def curriculum_mapping(status: Tensor, mapping: str = "convex") -> Tensor:
    r"""Return the share of the full threshold that a class needs.

    .. math:: M(\beta) = \begin{cases} \beta / (2 - \beta) & \text{convex} \\ \beta & \text{linear} \\
        (\ln(\beta + 1) + 1/2) / (\ln 2 + 1/2) & \text{concave} \\ 1 / (2 - \beta) & \text{low\_limit} \end{cases}

    All are 1 at 1. ``convex`` and ``linear`` begin at 0, so that every pseudo-label counts at first; ``concave`` begins
    at 0.42 and ``low_limit`` at 0.5. Source: FlexMatch (Zhang et al. 2021, section 3.3) for ``convex``, section 3.1 for
    ``linear``; the authors' code (TorchSSL) names the other two in comments.

    NOTE: That code's comment on a linear mapping has :math:`(\beta + 1) / 2`, which has a lower limit too.

    Args:
        status: ``beta``, any shape, float in ``[0, 1]``.
        mapping: One of the four names.

    Returns:
        A tensor of the same shape and dtype, in ``[0, 1]``.

    Example:
        >>> curriculum_mapping(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.3333, 1.0000])
    """
    if mapping == "convex":
        return status / (2 - status)
    if mapping == "concave":
        return (status.log1p() + 0.5) / (math.log(2) + 0.5)
    return status if mapping == "linear" else 1 / (2 - status)


def last_of_each(indices: Tensor) -> Tensor:
    """Return which entries are the last with their value: what a loop over the entries would leave behind.

    To write to repeated places at once has no fixed order on a GPU. Its cost depends on the entries alone.

    Args:
        indices: ``(N,)`` int64.

    Returns:
        ``(N,)`` bool; exactly one entry of each value is True.

    Example:
        >>> last_of_each(torch.tensor([7, 3, 7, 5]))
        tensor([False,  True,  True,  True])
    """
    in_order, places = indices.sort(stable=True)
    last = torch.ones_like(indices, dtype=torch.bool)
    last[places[:-1]] = in_order[1:] != in_order[:-1]
    return last
