"""Supervised and pseudo-label losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["pseudo_label_loss", "supervised_loss"]


def supervised_loss(logits: Tensor, label: Tensor) -> Tensor:
    r"""Return the mean cross-entropy of labelled samples.

    .. math:: L_s = \frac{1}{B} \sum_i H(y_i, \ell_i), \qquad H(y, \ell) = -\log \mathrm{softmax}(\ell)_y

    Source: FixMatch (Sohn et al. 2020, eq. 3).

    Args:
        logits: ``(B, K)``, any float dtype; computed in float32 (float64 stays).
        label: ``(B,)`` int64, class indices in ``[0, K)``.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> supervised_loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """
    return F.cross_entropy(_at_least_float32(logits), label)


def pseudo_label_loss(logits: Tensor, pseudo_label: Tensor, weight: Tensor) -> Tensor:
    r"""Return the cross-entropy against pseudo-labels, averaged over ALL samples.

    .. math:: L_u = \frac{1}{N} \sum_u m_u \, H(\hat y_u, \ell_u)

    Samples of weight 0 (masked) count in ``N``, so a low mask rate means a small loss and small gradients.

    Source: FixMatch (Sohn et al. 2020, eq. 4), with a weight in [0, 1] in place of the 0/1 mask as in SoftMatch
    (Chen et al. 2023, eq. 2).

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        pseudo_label: ``(N,)`` int64 class indices, or ``(N, K)`` float probabilities.
        weight: ``(N,)`` float in ``[0, 1]``.

    Returns:
        A scalar; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> import torch
        >>> pseudo_label_loss(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([1.0, 0.0]))
        tensor(0.6931)
    """
    if logits.shape[0] == 0:
        return _at_least_float32(logits).sum()
    losses = F.cross_entropy(_at_least_float32(logits), pseudo_label, reduction="none")  # (N,)
    return (losses * weight).mean()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype.itemsize < 4 else logits
