"""Virtual adversarial perturbations: which small change of an image changes its prediction most."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["divergence", "fisher_product", "unit_directions"]


def unit_directions(vectors: Tensor) -> Tensor:
    r"""Return each sample's vector with length 1, :math:`\bar d_i = d_i / \|d_i\|_2`.

    Source: VAT (Miyato et al. 2018, section 3.3). The length is exact: the codes add a small number to the norm, which
    shortens a gradient as small as VAT's.

    Args:
        vectors: ``(N, ...)`` float.

    Returns:
        The same shape. A vector of zeros has no direction and stays as it is.

    Example:
        >>> unit_directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    flat = vectors.flatten(1)
    # By the largest entry first: the squares of a small gradient are zero in float32.
    largest = flat.abs().amax(dim=1, keepdim=True)
    scaled = flat / torch.where(largest > 0, largest, 1)
    length = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return (scaled / torch.where(length > 0, length, 1)).view_as(vectors)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    r"""Return how far predictions are from their targets, by Kullback and Leibler.

    .. math:: D = \frac{1}{N} \sum_i \sum_k p_{ik} \left(\log p_{ik} - \log \mathrm{softmax}(\ell_i)_k\right)

    Source: VAT (Miyato et al. 2018, eq. 5 and 8).

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays). The gradient goes here.
        target: ``(N, K)`` float probabilities p, without a gradient.

    Returns:
        A scalar, at least 0.

    Example:
        >>> divergence(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    loss: Tensor = torch.special.xlogy(target, target) - target * logits.log_softmax(dim=-1)
    return loss.sum(dim=-1).mean()


def fisher_product(probs: Tensor, vectors: Tensor) -> Tensor:
    r"""Return the Hessian of the divergence with respect to the logits, at the target itself, times a vector.

    .. math:: F v = p \odot v - p \, (p^\top v), \qquad
        F = \nabla^2_\ell \, \mathrm{KL}(p \,\|\, \mathrm{softmax}(\ell))

    Source: the second-order expansion of VAT (Miyato et al. 2018, section 3.3), with respect to the logits.

    Args:
        probs: ``(N, K)`` float probabilities p.
        vectors: ``(N, K)`` float v.

    Returns:
        ``(N, K)``.

    Example:
        >>> fisher_product(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
        tensor([[ 0.2500, -0.2500]])
    """
    weighted = probs * vectors
    return weighted - probs * weighted.sum(dim=-1, keepdim=True)
