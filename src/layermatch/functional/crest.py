"""CReST+: the distribution of classes that pseudo-labels are aligned to."""

from __future__ import annotations

from torch import Tensor

__all__ = ["alignment_power", "tempered_distribution"]


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
        >>> import torch
        >>> tempered_distribution(torch.tensor([0.8, 0.2]), 0.5)
        tensor([0.6667, 0.3333])
    """
    powered = shares**power
    return powered / powered.sum()
