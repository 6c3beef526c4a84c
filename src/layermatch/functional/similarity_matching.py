"""SimMatch's equations: how similar an image is to each labelled one, and to each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.contrast import scaled_similarities

__all__ = ["aggregated", "instance_similarity_loss", "similarity_distribution", "unfolded"]


def similarity_distribution(keys: Tensor, bank_keys: Tensor, *, temperature: float) -> Tensor:
    r"""Return how similar images are to those of a bank, as probabilities without a gradient.

    .. math:: s_{im} = \frac{\exp(k_i \cdot k^b_m / T)}{\sum_{m'} \exp(k_i \cdot k^b_{m'} / T)}

    Source: SimMatch (Zheng et al. 2022, eq. 4).

    Args:
        keys: ``(N, D)`` float embeddings of length 1.
        bank_keys: ``(M, D)`` float embeddings of length 1.
        temperature: ``T``, above 0.

    Returns:
        ``(N, M)`` float32 or float64.

    Example:
        >>> import torch
        >>> similarity_distribution(torch.eye(2)[:1], torch.eye(2), temperature=1.0)
        tensor([[0.7311, 0.2689]])
    """
    return scaled_similarities(keys.detach(), bank_keys, temperature=temperature).softmax(dim=1)


def unfolded(similarity: Tensor, probs: Tensor, bank_label: Tensor) -> Tensor:
    r"""Return the similarities to single images, calibrated by the probability of each image's class.

    .. math:: \hat s_{im} = \frac{s_{im} \, p_i[y_m]}{\sum_{m'} s_{im'} \, p_i[y_{m'}]}

    Source: SimMatch (Zheng et al. 2022, eqs. 7 and 8).

    Args:
        similarity: ``(N, M)`` float, rows sum to 1; see :func:`similarity_distribution`.
        probs: ``(N, K)`` float probabilities p.
        bank_label: ``(M,)`` int64 in ``[0, K)``: the classes y of the images in the bank.

    Returns:
        ``(N, M)`` float, rows sum to 1; a row of zeros where no image in the bank is of a class that is probable.

    Example:
        >>> import torch
        >>> unfolded(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]]), torch.tensor([0, 1]))
        tensor([[0.9000, 0.1000]])
    """
    joint = similarity * probs[:, bank_label]
    return joint / joint.sum(dim=1, keepdim=True).clamp(min=torch.finfo(joint.dtype).tiny)


def aggregated(similarity: Tensor, bank_label: Tensor, *, num_classes: int) -> Tensor:
    r"""Return the similarities to single images, summed to those of classes.

    .. math:: a_i[c] = \sum_{m: y_m = c} s_{im}

    Source: SimMatch (Zheng et al. 2022, eq. 9).

    Args:
        similarity: ``(N, M)`` float, rows sum to 1; see :func:`similarity_distribution`.
        bank_label: ``(M,)`` int64 in ``[0, K)``: the classes y of the images in the bank.
        num_classes: ``K``.

    Returns:
        ``(N, K)`` float, rows sum to 1.

    Example:
        >>> import torch
        >>> aggregated(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([0, 1, 1]), num_classes=3)
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    # A matrix product rather than scatter_add: its order of additions is fixed on CUDA too.
    membership = F.one_hot(bank_label, num_classes).to(similarity.dtype)  # (M, K)
    return scaled_similarities(similarity, membership.T, temperature=1.0)


def instance_similarity_loss(keys: Tensor, bank_keys: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    r"""Return the cross-entropy between the calibrated similarities of a weak view and those of a strong one.

    .. math:: L_{in} = -\frac{1}{N} \sum_{i, m} \hat s_{im} \log s'_{im}

    with s' the :func:`similarity_distribution` of the strong view. Source: SimMatch (Zheng et al. 2022, eq. 5).

    Args:
        keys: ``(N, D)`` float embeddings of length 1, of the strong views; the gradient goes here.
        bank_keys: ``(M, D)`` float embeddings of length 1.
        target: ``(N, M)`` float, without a gradient; see :func:`unfolded`.
        temperature: ``T``, above 0.

    Returns:
        A scalar; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> import torch
        >>> instance_similarity_loss(torch.eye(2), torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(0.3133)
    """
    log_similar = scaled_similarities(keys, bank_keys, temperature=temperature).log_softmax(dim=1)
    return -(target * log_similar).sum() / max(len(keys), 1)
