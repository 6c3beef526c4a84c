"""The votes of several predictions on the class of an image, and the target that is made of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["VOTE_TARGETS", "target_of_votes", "votes_of"]

#: What a target is made of votes by.
VOTE_TARGETS = ("softmax", "mean")


def votes_of(logits: Tensor) -> Tensor:
    r"""Return one vote for the most probable class; among equal ones the first.

    .. math:: v_{uk} = \mathbf{1}\left[k = \arg\max_j \ell_{uj}\right]

    Args:
        logits: ``(N, K)`` float.

    Returns:
        ``(N, K)`` float32, a 1 in each row.

    Example:
        >>> import torch
        >>> votes_of(torch.tensor([[0.1, 0.7, 0.7]]))
        tensor([[0., 1., 0.]])
    """
    return F.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


def target_of_votes(counts: Tensor, *, form: str) -> Tensor:
    r"""Return the probabilities that are taught, by how often each class was voted for.

    .. math:: t_u = \begin{cases} \mathrm{softmax}(c_u) & \text{softmax} \\ c_u / \sum_k c_{uk} & \text{mean}
        \end{cases}

    Source: V-PET (Zhang et al. 2025, arXiv 2503.09707); ``softmax`` is the authors' code, ``mean`` the mean of the
    votes as distributions.

    Args:
        counts: c, ``(N, K)`` float of at least 0; no row is 0.
        form: ``softmax`` or ``mean``.

    Returns:
        ``(N, K)``, rows sum to 1.

    Example:
        >>> import torch
        >>> counts = torch.tensor([[3.0, 1.0]])
        >>> target_of_votes(counts, form="softmax"), target_of_votes(counts, form="mean")
        (tensor([[0.8808, 0.1192]]), tensor([[0.7500, 0.2500]]))
    """
    return counts.softmax(dim=1) if form == "softmax" else counts / counts.sum(dim=1, keepdim=True)
