"""Class centroids of features, and the loss that pulls features to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.product import product_float32

__all__ = ["centroid_loss", "class_sums", "gradient_gap"]


def class_sums(features: Tensor, label: Tensor, weight: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor]:
    r"""Return the weighted sum of the features of each class, and the sum of its weights.

    .. math:: S_k = \sum_{u: \hat y_u = k} m_u z_u, \qquad n_k = \sum_{u: \hat y_u = k} m_u

    Sums, not means, so that batches and ranks can be added before dividing. Source: ours.

    Args:
        features: ``(N, D)`` float.
        label: ``(N,)`` int64 in ``[0, K)``.
        weight: ``(N,)`` float in ``[0, 1]``.
        num_classes: ``K``.

    Returns:
        ``sums`` ``(K, D)`` and ``counts`` ``(K,)``, both float32 (float64 stays).

    Example:
        >>> import torch
        >>> class_sums(torch.ones(3, 1), torch.tensor([0, 0, 1]), torch.tensor([1.0, 1.0, 0.0]), num_classes=2)
        (tensor([[2.],
                [0.]]), tensor([2., 0.]))
    """
    features = features.float() if features.dtype.itemsize < 4 else features
    membership = F.one_hot(label, num_classes).to(features.dtype) * weight.to(features.dtype)[:, None]  # (N, K)
    # A matrix product rather than index_add: its order of additions is fixed on CUDA too.
    return product_float32(membership.T, features), membership.sum(dim=0)


def centroid_loss(
    features: Tensor, centroids: Tensor, pseudo_label: Tensor, weight: Tensor, *, temperature: float
) -> Tensor:
    r"""Return the cross-entropy of the cosine similarity between features and class centroids.

    .. math:: L_{ac} = \frac{1}{N} \sum_u m_u H\left(\hat y_u, \cos(z_u, c) / T\right)

    A centroid of norm 0 belongs to a class that has none yet: its column leaves the softmax, and samples of that
    class count as 0. Source: ours (a reading of LayerMatch's Avg-Clustering).

    Args:
        features: ``(N, D)`` float, carries the gradient.
        centroids: ``(K, D)`` float, no gradient is sent to them.
        pseudo_label: ``(N,)`` int64 in ``[0, K)``.
        weight: ``(N,)`` float in ``[0, 1]``.
        temperature: ``T``, above 0.

    Returns:
        A scalar, averaged over all ``N`` samples; 0 with a gradient of 0 when no class has a centroid.

    Example:
        >>> import torch
        >>> centroids = torch.eye(2)
        >>> centroid_loss(centroids, centroids, torch.tensor([0, 1]), torch.ones(2), temperature=1.0)
        tensor(0.3133)
    """
    features = features.float() if features.dtype.itemsize < 4 else features
    centroids = centroids.detach().to(features.dtype)
    known = centroids.norm(dim=1) > 0  # (K,)
    counted = weight * known[pseudo_label]  # (N,)
    unit, centres = F.normalize(features, dim=1), F.normalize(centroids, dim=1)
    similarity = product_float32(unit, centres.T) / temperature  # (N, K)
    # A finite floor: with -inf a sample whose class is left out would give 0 * inf = NaN in the gradient.
    similarity = similarity.masked_fill(~known, torch.finfo(similarity.dtype).min / 2)
    losses = F.cross_entropy(similarity, pseudo_label, reduction="none")  # (N,)
    return torch.where(counted > 0, losses * counted, torch.zeros_like(losses)).sum() / max(len(losses), 1)


def gradient_gap(loss: Tensor, reference: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return how far the gradient of one loss is from that of another, and how long the other is.

    .. math:: \left\| \nabla_z L - \nabla_z L_{ref} \right\|^2, \qquad \left\| \nabla_z L_{ref} \right\|^2

    Squares, so that batches and ranks can be added before the root of their ratio is taken. Source: ours.

    Args:
        loss: A scalar, with its graph, which is kept.
        reference: The other scalar, with its graph, which is kept.
        features: ``(N, D)``, what both are losses of; it must be in both graphs.

    Returns:
        Two scalars.

    Example:
        >>> import torch
        >>> features = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> gradient_gap(2 * features.sum(), features.sum(), features)
        (tensor(2.), tensor(2.))
    """
    grad, grad_reference = (
        torch.autograd.grad(each, features, retain_graph=True)[0].float() for each in (loss, reference)
    )
    return (grad - grad_reference).square().sum(), grad_reference.square().sum()
