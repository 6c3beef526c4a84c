"""The way from the logits of a weak view to a pseudo-label and its mask."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["confidence_mask", "entropy", "hard_pseudo_labels", "probabilities", "with_label_noise"]


def probabilities(logits: Tensor) -> Tensor:
    r"""Compute class probabilities without a gradient, :math:`p = \mathrm{softmax}(\mathrm{sg}(\ell))`.

    Source: FixMatch (Sohn et al. 2020, section 2.2).

    Args:
        logits: ``(N, K)``, any float dtype.

    Returns:
        ``(N, K)`` float32 (float64 stays), rows sum to 1. Never bf16: its 8 bits cannot tell 0.948 from 0.952.

    Example:
        >>> import torch
        >>> probabilities(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    logits = logits.detach()
    return (logits.float() if logits.dtype.itemsize < 4 else logits).softmax(dim=-1)


def hard_pseudo_labels(probs: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the most probable class and its probability.

    .. math:: \hat y = \arg\max_k p_k, \qquad c = \max_k p_k

    Source: FixMatch (Sohn et al. 2020, section 2.2). Among equal maxima the lowest class index is taken.

    Args:
        probs: ``(N, K)`` float probabilities.

    Returns:
        ``pseudo_label`` ``(N,)`` int64 and ``confidence`` ``(N,)`` of the dtype of ``probs``.

    Example:
        >>> import torch
        >>> hard_pseudo_labels(torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
        (tensor([1, 0]), tensor([0.9000, 0.5000]))
    """
    # argmax promises the first of equal maxima; max(dim) does not.
    pseudo_label = probs.argmax(dim=-1)
    return pseudo_label, probs.gather(-1, pseudo_label[:, None])[:, 0]


def entropy(probs: Tensor) -> Tensor:
    r"""Return how undecided each row of probabilities is, in nats.

    .. math:: h = -\sum_k p_k \log p_k, \qquad 0 \log 0 = 0

    It is not for gradients, which are not finite where a probability is 0: see
    :func:`~layermatch.functional.prediction_entropy`.

    Args:
        probs: ``(N, K)`` float probabilities.

    Returns:
        ``(N,)`` of the dtype of ``probs``, from 0 (certain) to ``log K`` (uniform).

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(dim=-1)


def confidence_mask(confidence: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Return 1 where the confidence reaches the threshold, else 0.

    .. math:: m = \mathbf{1}[c \ge \tau]

    Source: FixMatch (Sohn et al. 2020, eq. 4).

    Args:
        confidence: ``(N,)`` float in ``[0, 1]``.
        threshold: One number in ``(0, 1]``, or one per sample ``(N,)``.

    Returns:
        ``(N,)`` float32 of zeros and ones.

    Example:
        >>> import torch
        >>> confidence_mask(torch.tensor([0.94, 0.95, 0.96]), 0.95)
        tensor([0., 1., 1.])
    """
    return (confidence >= threshold).float()


def with_label_noise(label: Tensor, draws: Tensor, *, noise: float, num_classes: int) -> Tensor:
    r"""Return the labels of which a share is replaced by another class, each other class as likely.

    .. math::
        \tilde y = \begin{cases} (y + 1 + \lfloor v (K - 1) \rfloor) \bmod K & u < r \\ y & \text{else} \end{cases}

    Source: ours, for study; the symmetric noise of the literature on noisy labels.

    Args:
        label: ``(N,)`` int64 in ``[0, K)``.
        draws: ``(N, 2)`` float in ``[0, 1)``: ``u`` and ``v`` of each sample.
        noise: ``r``, in ``[0, 1]``.
        num_classes: ``K``, at least 2.

    Returns:
        ``(N,)`` int64 in ``[0, K)``.

    Example:
        >>> import torch
        >>> draws = torch.tensor([[0.1, 0.9], [0.5, 0.9]])
        >>> with_label_noise(torch.tensor([3, 3]), draws, noise=0.2, num_classes=10)
        tensor([2, 3])
    """
    # In float64: a float32 product with v close to 1 could be rounded up to K - 1, which is y itself again.
    step = 1 + (draws[:, 1].double() * (num_classes - 1)).long()
    return torch.where(draws[:, 0] < noise, (label + step) % num_classes, label)
