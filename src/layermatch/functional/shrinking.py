"""ShrinkMatch's equations: the classes that an uncertain prediction is left with when its rivals are taken out."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.functional.pseudo_labels import hard_pseudo_labels

__all__ = ["shrink_loss", "shrunk_classes"]


def shrunk_classes(probs: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    r"""Return the most probable class and the least probable ones, such that among them the first is certain.

    With the classes in descending order of probability, :math:`p_1 \ge p_2 \ge \dots \ge p_K`, ranks 2 to c are taken
    out, with the smallest c that makes the first class certain:

    .. math:: c = \min \Big\{ c \ge 2: \frac{p_1}{p_1 + \sum_{k > c} p_k} \ge \tau \Big\}, \qquad c \le K - 1

    Source: ShrinkMatch (Yang et al. 2023, section 3.2).

    Args:
        probs: ``(N, K)`` float probabilities.
        threshold: ``tau``, in ``(0, 1]``.

    Returns:
        ``kept`` ``(N, K)`` bool, the classes that stay; where no c makes the first certain, those of c = K - 1.
        ``reached`` ``(N,)`` bool, whether a c does. With two classes there is none to take out, and none is reached.

    Example:
        >>> import torch
        >>> shrunk_classes(torch.tensor([[0.5, 0.47, 0.02, 0.01], [0.4, 0.3, 0.2, 0.1]]), threshold=0.9)
        (tensor([[ True, False,  True,  True],
                [ True, False, False,  True]]), tensor([ True, False]))
    """
    ranked, order = probs.sort(dim=1, descending=True, stable=True)
    num_classes = probs.shape[1]
    if num_classes < 3:
        return torch.ones_like(probs, dtype=torch.bool), torch.zeros_like(probs[:, 0], dtype=torch.bool)
    # What is left behind rank c, for c = 2 .. K - 1.
    left = ranked[:, 2:].flip(1).cumsum(dim=1).flip(1)
    certain = ranked[:, :1] / (ranked[:, :1] + left) >= threshold
    reached = certain.any(dim=1)
    # Of equal maxima argmax takes the first.
    removed = torch.where(reached, certain.int().argmax(dim=1) + 2, num_classes - 1)
    rank = torch.arange(num_classes, device=probs.device)
    kept_ranks = (rank == 0) | (rank >= removed[:, None])
    return torch.zeros_like(kept_ranks).scatter(1, order, kept_ranks), reached


def shrink_loss(logits: Tensor, probs: Tensor, uncertain: Tensor, *, threshold: float) -> Tensor:
    r"""Return the cross-entropy of uncertain images among the classes that they are left with.

    .. math:: L_{sh} = \frac{1}{N} \sum_{u \text{ uncertain}} p_{u1} \, r_u \, H_{S_u}(\hat y_u, \ell_u), \qquad
        H_S(y, \ell) = -\log \frac{\exp \ell_y}{\sum_{k \in S} \exp \ell_k}

    with :math:`S_u` the classes of :func:`shrunk_classes`, and :math:`r_u` 1 where these make the first one certain,
    else 0. Source: ShrinkMatch (Yang et al. 2023, section 3.3, and its first principle of weights).

    Args:
        logits: ``(N, K)``, any float dtype, of the strong views; computed in float32 (float64 stays).
        probs: ``(N, K)`` float probabilities of the weak views, without a gradient.
        uncertain: ``(N,)`` bool, the images that count.
        threshold: ``tau``, in ``(0, 1]``.

    Returns:
        A scalar, averaged over all ``N`` images; 0 with a gradient of 0 where none counts.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.5, 0.47, 0.02, 0.01]])
        >>> shrink_loss(torch.zeros(1, 4), probs, torch.tensor([True]), threshold=0.9)
        tensor(0.5493)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    kept, reached = shrunk_classes(probs, threshold=threshold)
    label, confidence = hard_pseudo_labels(probs)
    losses = logits.masked_fill(~kept, -torch.inf).logsumexp(dim=1) - logits.gather(1, label[:, None])[:, 0]
    return (losses * confidence * (uncertain & reached)).sum() / max(len(losses), 1)
