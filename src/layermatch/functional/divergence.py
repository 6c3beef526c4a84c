"""How far one distribution over the classes is from another, and distributions at a temperature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["at_temperature", "divergence_loss"]


def at_temperature(probs: Tensor, temperature: float) -> Tensor:
    r"""Probabilities at another temperature: below 1 they are sharper.

    .. math:: \frac{p_k^{1/T}}{\sum_j p_j^{1/T}} = \mathrm{softmax}(\ell / T)_k \quad \text{for } p =
        \mathrm{softmax}(\ell)

    Source: MixMatch (Berthelot et al. 2019, eq. 7).

    Args:
        probs: ``(N, K)`` float, rows of probabilities.
        temperature: T, above 0.

    Returns:
        ``(N, K)`` of the dtype of ``probs``; rows sum to 1.

    Example:
        >>> import torch
        >>> at_temperature(torch.tensor([[0.75, 0.25]]), 0.5)
        tensor([[0.9000, 0.1000]])
    """
    # Relative to the largest, which is 1 whatever the temperature: no row can underflow to zeros.
    powers = (probs / probs.amax(dim=-1, keepdim=True)).pow(1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


def divergence_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of predictions from targets, averaged over ALL samples.

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
