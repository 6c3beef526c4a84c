"""How far one distribution over the classes is from another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["divergence_loss"]


def divergence_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    r"""Compute the Kullback-Leibler divergence of predictions from targets, averaged over ALL samples.

    .. math:: \frac{1}{N} \sum_u w_u \, \mathrm{KL}(t_u \,\|\, \mathrm{softmax}(\ell_u)), \qquad
        \mathrm{KL}(t \,\|\, q) = \sum_k t_k \log \frac{t_k}{q_k}, \qquad 0 \log 0 = 0

    Source: UDA (Xie et al. 2020, section 2.2), with the mean over all samples as in FixMatch.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        target: ``(N, K)`` float, rows of probabilities, without a gradient.
        weight: ``(N,)`` float in ``[0, 1]``.

    Returns:
        A scalar; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> import torch
        >>> divergence_loss(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.ones(2))
        tensor(0.3466)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    if logits.shape[0] == 0:
        return logits.sum()
    divergence = F.kl_div(logits.log_softmax(dim=-1), target.detach(), reduction="none").sum(dim=-1)  # (N,)
    return (divergence * weight).mean()
