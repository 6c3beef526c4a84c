"""CReST: how many pseudo-labels of each class are taken as labels, and the distribution they are aligned to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["added_labels", "alignment_power", "sampling_rates", "tempered_distribution"]


def sampling_rates(label_counts: Tensor, *, alpha: float = 1 / 3) -> Tensor:
    r"""Compute the share of each class's pseudo-labels that join the labelled set: all of the rarest, few of others.

    .. math:: \mu_l = \left( n_{K + 1 - l} / n_1 \right)^\alpha, \qquad n_1 \ge \dots \ge n_K

    with l the rank of the class by its labelled images; equal classes keep their order. Source: CReST (Wei et al. 2021,
    section 3.2).

    Args:
        label_counts: n, ``(K,)`` numbers of at least 0, in any order, one of them above 0.
        alpha: A number that is at least 0; the authors' option of the same name is ``1 / alpha``, 3.

    Returns:
        ``(K,)`` float32 (float64 stays) in ``[0, 1]``, in the order of ``label_counts``.

    Example:
        >>> sampling_rates(torch.tensor([100, 50, 10]), alpha=0.5)
        tensor([0.3162, 0.7071, 1.0000])
    """
    counts = label_counts if label_counts.is_floating_point() else label_counts.float()
    ranked, order = counts.sort(descending=True, stable=True)
    rates = torch.empty_like(counts)
    rates[order] = (ranked.flip(0) / ranked[0]) ** alpha
    return rates


def added_labels(probs: Tensor, rates: Tensor) -> Tensor:
    r"""Return the pseudo-labels that join the labelled set: of each class the most confident share.

    .. math:: S_k = \text{the } \lfloor \mu_k \, |P_k| \rfloor \text{ most confident of } P_k, \qquad
        P_k = \{u : \arg\max p_u = k\}

    Source: CReST (Wei et al. 2021, section 3.2), and the authors' code for the choice by confidence.

    Args:
        probs: p, ``(N, K)`` float probabilities of the whole pool.
        rates: ``mu``, ``(K,)`` float in ``[0, 1]``, as :func:`sampling_rates` gives them.

    Returns:
        ``(N,)`` int64: the class that an image joins the labelled set with, and -1 for an image that does not. Of
        images that are equally sure the first ones are taken.

    Example:
        >>> added_labels(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]]), torch.tensor([0.5, 1.0]))
        tensor([ 0, -1,  1])
    """
    confidence, label = probs.max(dim=1).values, probs.argmax(dim=1)
    added = torch.full_like(label, -1)
    for k, rate in enumerate(rates.tolist()):
        members = (label == k).nonzero()[:, 0]
        # What a product that should be a whole number may lack.
        count = math.floor(rate * len(members) + 1e-6)
        ranked = confidence[members].argsort(descending=True, stable=True)
        added[members[ranked[:count]]] = k
    return added


def alignment_power(generation: int, *, generations: int, smallest: float) -> float:
    r"""Return the power of the labelled distribution that pseudo-labels are aligned to, generation by generation.

    .. math:: t_g = 1 - \frac{g}{G - 1} \, (1 - t_{min}), \qquad g = 0, \dots, G - 1

    Source: CReST+ (Wei et al. 2021, section 3.3, progressive distribution alignment), as the authors' code counts.

    Args:
        generation: g, in ``[0, G - 1]``.
        generations: G, at least 1; with a single one the power is 1.
        smallest: ``t_min``, in ``[0, 1]``; at 0 the last target is uniform.

    Returns:
        A number in ``[t_min, 1]``.

    Example:
        >>> [alignment_power(g, generations=6, smallest=0.5) for g in range(6)]
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    """
    done = generation / (generations - 1) if generations > 1 else 0.0
    return (1 - done) + done * smallest


def tempered_distribution(shares: Tensor, power: float) -> Tensor:
    r"""Return a distribution of classes, made more even.

    .. math:: \tilde n_k = n_k^t / \textstyle\sum_j n_j^t

    Source: CReST+ (Wei et al. 2021, section 3.3).

    Args:
        shares: n, ``(K,)`` float of at least 0.
        power: t, in ``[0, 1]``.

    Returns:
        ``(K,)`` of the dtype of ``shares``; sums to 1.

    Example:
        >>> tempered_distribution(torch.tensor([0.8, 0.2]), 0.5)
        tensor([0.6667, 0.3333])
    """
    powered = shares**power
    return powered / powered.sum()
