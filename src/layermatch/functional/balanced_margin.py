"""FineSSL's margins: the less a class is predicted, the larger the lead that its images must have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["balanced_margins", "smoothed_loss_of_accepted", "with_margin"]


def balanced_margins(status: Tensor, *, scale: float) -> Tensor:
    r"""Return the margin of each class.

    .. math:: \delta_c = \alpha \left(\max_k a_k - \min_k a_k\right) \frac{1 - a_c}{1 + a_c}

    Source: FineSSL (Gan and Wei 2024, arXiv 2405.11756) in the authors' code.

    Args:
        status: a, ``(K,)`` float in ``[0, 1]``: how well each class is learnt, the best one 1; see
            :func:`~layermatch.functional.learning_status`.
        scale: alpha, at least 0.

    Returns:
        ``(K,)`` of the dtype of ``status``, at least 0; all 0 where the classes are learnt alike.

    Example:
        >>> balanced_margins(torch.tensor([1.0, 0.5, 0.0]), scale=3.0)
        tensor([0., 1., 3.])
    """
    return scale * (status.max() - status.min()) * (1 - status) / (1 + status)


def with_margin(logits: Tensor, label: Tensor, margins: Tensor) -> Tensor:
    r"""Return the logits with the margin of each image's class added to those of all other classes.

    .. math:: \ell'_{uk} = \ell_{uk} + \delta_{y_u} \mathbf{1}[k \ne y_u]

    Source: FineSSL (Gan and Wei 2024, arXiv 2405.11756).

    Args:
        logits: ``(N, K)`` float, with a gradient.
        label: y, ``(N,)`` int64.
        margins: delta, ``(K,)`` float.

    Returns:
        ``(N, K)``.

    Example:
        >>> with_margin(torch.zeros(1, 3), torch.tensor([1]), torch.tensor([0.0, 2.0, 5.0]))
        tensor([[2., 0., 2.]])
    """
    others = 1 - F.one_hot(label, logits.shape[1])
    return logits + margins.to(logits.dtype)[label][:, None] * others


def smoothed_loss_of_accepted(
    logits: Tensor, label: Tensor, mask: Tensor, *, smoothing: float, share: Tensor | None = None
) -> Tensor:
    r"""Return the cross-entropy with smoothed labels, averaged over the ACCEPTED samples.

    .. math:: \frac{\sum_u m_u \sum_k -t_{uk} \log \mathrm{softmax}(\ell_u)_k}{\sum_u m_u}, \qquad
        t_{uk} = \begin{cases} 1 - s & k = \hat y_u \\ s / (K - 1) & \text{else} \end{cases}

    Source: FineSSL (Gan and Wei 2024, arXiv 2405.11756) in the authors' code, for its second head.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        label: ``(N,)`` int64.
        mask: m, ``(N,)`` float, 0 or 1.
        smoothing: s, in ``[0, 1)``.
        share: The share of the samples of all ranks that are accepted, a scalar; the mean over the ranks is then the
            loss of all samples together. None takes that of these samples.

    Returns:
        A scalar; 0 with a gradient of 0 where nothing is accepted.

    Example:
        >>> smoothed_loss_of_accepted(torch.zeros(2, 4), torch.tensor([1, 2]), torch.tensor([1.0, 0.0]), smoothing=0.1)
        tensor(1.3863)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    if logits.shape[0] == 0:
        return logits.sum()
    num_classes = logits.shape[1]
    chosen = F.one_hot(label, num_classes).to(logits.dtype)
    target = (1 - smoothing) * chosen + smoothing / (num_classes - 1) * (1 - chosen)
    mask = mask.to(logits.dtype)
    losses = F.cross_entropy(logits, target, reduction="none") * mask  # (N,)
    share = mask.mean() if share is None else share.to(logits.dtype)
    return losses.mean() / share.clamp(min=torch.finfo(logits.dtype).tiny)
