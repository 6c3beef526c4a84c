"""Whether an image is of none of the classes: one question for each class, and one class more."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["one_vs_all_loss", "one_vs_all_probabilities", "open_set_targets"]

#: What keeps the logarithms of :func:`one_vs_all_loss` finite (the authors' code).
OFFSET = 1e-8


def one_vs_all_probabilities(logits: Tensor) -> Tensor:
    r"""Compute for each class the probability that the image is not of it, and that it is.

    .. math:: (o^-_k, o^+_k) = \mathrm{softmax}(\ell_k, \ell_{K + k})

    Source: IOMatch (Li et al. 2023).

    Args:
        logits: ``(N, 2 K)``, first "not this class" for every class, then "this class"; any float dtype, computed in
            float32 (float64 stays).

    Returns:
        ``(N, 2, K)``: ``[:, 0]`` is ``o-`` and ``[:, 1]`` is ``o+``, which sum to 1.

    Example:
        >>> one_vs_all_probabilities(torch.zeros(1, 4))
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return logits.reshape(len(logits), 2, -1).softmax(dim=-2)


def one_vs_all_loss(logits: Tensor, label: Tensor) -> Tensor:
    r"""Return the loss that asks an image to be of its class, and not of the one most likely taken for it.

    .. math:: \frac{1}{B} \sum_i \left[ -\log o^+_{y_i} + \max_{k \ne y_i} (-\log o^-_k) \right]

    Source: IOMatch (Li et al. 2023), after OpenMatch (Saito et al. 2021); each logarithm is of ``o + 1e-8``, as
    in the authors' code.

    Args:
        logits: ``(B, 2 K)``; see :func:`one_vs_all_probabilities`.
        label: ``(B,)`` int64 in ``[0, K)``.

    Returns:
        A scalar.

    Example:
        >>> one_vs_all_loss(torch.zeros(1, 4), torch.tensor([1]))
        tensor(1.3863)
    """
    # Two logarithms rather than one of a ratio: a probability of 0 has a finite loss.
    is_not, is_of = (-(one_vs_all_probabilities(logits) + OFFSET).log()).unbind(dim=-2)
    own = F.one_hot(label, is_of.shape[-1]).to(torch.bool)
    worst: Tensor = is_not.masked_fill(own, 0).max(dim=-1).values
    return is_of[own].mean() + worst.mean()


def open_set_targets(probs: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return how likely an image is of no class at all, and a distribution over the classes and "none of them".

    .. math:: s = \sum_k p_k o^-_k, \qquad q = (p_1 o^+_1, \dots, p_K o^+_K, s)

    Source: IOMatch (Li et al. 2023).

    Args:
        probs: ``p``, ``(N, K)`` float, rows of probabilities.
        pairs: ``(N, 2, K)``, as :func:`one_vs_all_probabilities` gives them.

    Returns:
        ``s`` ``(N,)``, and ``q`` ``(N, K + 1)``, whose rows sum to 1.

    Example:
        >>> s, q = open_set_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]))
        >>> s, q
        (tensor([0.2500]), tensor([[0.7500, 0.0000, 0.2500]]))
    """
    is_not, is_of = pairs.unbind(dim=-2)
    outside = (probs * is_not).sum(dim=-1)
    return outside, torch.cat([probs * is_of, outside[:, None]], dim=-1)
