"""Pseudo-labels by the similarity to class prototypes, and their blend with those of a linear classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.product import product_float32

__all__ = ["blend", "blending_weights", "prototype_logits"]


def prototype_logits(features: Tensor, prototypes: Tensor, *, temperature: float) -> Tensor:
    r"""Return the logits by the cosine between features and the prototype of each class.

    .. math:: \ell_k = \cos(z, c_k) / T

    A prototype of norm 0 has the cosine 0 with everything. Source: DASO (Oh et al. 2022, section 3.2).

    Args:
        features: z, ``(N, D)``, any float dtype; computed in float32 (float64 stays). The gradient goes here.
        prototypes: c, ``(K, D)`` float, without a gradient.
        temperature: T, above 0.

    Returns:
        ``(N, K)``.

    Example:
        >>> prototype_logits(torch.tensor([[2.0, 0.0]]), torch.eye(2), temperature=0.5)
        tensor([[2., 0.]])
    """
    features = features.float() if features.dtype.itemsize < 4 else features
    prototypes = prototypes.detach().to(features.dtype)
    return product_float32(F.normalize(features, dim=1), F.normalize(prototypes, dim=1).T) / temperature


def blending_weights(shares: Tensor, *, temperature: float) -> Tensor:
    r"""Compute how much of the prototypes' pseudo-label each class's label gets: the more, the more often it is given.

    .. math:: \upsilon_k = \left( m_k / \max_j m_j \right)^{1 / T}

    Source: DASO (Oh et al. 2022, eq. 2 and the text below it).

    Args:
        shares: m, ``(K,)`` float of at least 0: how often each class is given now; all 0 is not known yet.
        temperature: T, above 0.

    Returns:
        ``(K,)`` of the dtype of ``shares``, in ``[0, 1]``; all 0 where the shares are not known yet.

    Example:
        >>> blending_weights(torch.tensor([0.8, 0.2]), temperature=0.5)
        tensor([1.0000, 0.0625])
    """
    largest = shares.max()
    scaled = (shares / largest.clamp(min=torch.finfo(shares.dtype).tiny)) ** (1 / temperature)
    return torch.where(largest > 0, scaled, 0.0)


def blend(probs: Tensor, semantic: Tensor, weights: Tensor) -> Tensor:
    r"""Return the linear classifier's pseudo-label with a share of the prototypes' one, by the class of the former.

    .. math:: p' = (1 - \upsilon_{\hat y}) \, p + \upsilon_{\hat y} \, q, \qquad \hat y = \arg\max_k p_k

    Source: DASO (Oh et al. 2022, eq. 2).

    Args:
        probs: p, ``(N, K)`` float probabilities of the linear classifier.
        semantic: q, ``(N, K)`` float probabilities by the prototypes.
        weights: ``upsilon``, ``(K,)`` float in ``[0, 1]``.

    Returns:
        ``(N, K)``, rows sum to 1.

    Example:
        >>> blend(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]), torch.tensor([0.5, 0.0]))
        tensor([[0.7000, 0.3000]])
    """
    share = weights.to(probs.dtype)[probs.argmax(dim=1)][:, None]
    return (1 - share) * probs + share * semantic
