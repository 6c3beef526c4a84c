"""Accuracies of counted predictions."""

from __future__ import annotations

from torch import Tensor

__all__ = ["macro_accuracy"]


def macro_accuracy(confusion: Tensor) -> Tensor:
    r"""Return the mean over the classes of the share of their images that are recognised.

    .. math:: a = \frac{1}{|\{k : n_k > 0\}|} \sum_{k : n_k > 0} \frac{C_{kk}}{n_k}, \qquad n_k = \sum_j C_{kj}

    A class of few images counts as much as one of many. Where all classes have as many images, it is the accuracy.
    A class without images is left out. Source: the balanced accuracy of the literature on long-tailed classes.

    Args:
        confusion: ``C``, ``(K, K)`` counts, true class by prediction.

    Returns:
        A scalar, float64, in ``[0, 1]``; not a number where there are no images.

    Example:
        >>> import torch
        >>> macro_accuracy(torch.tensor([[8, 2], [1, 1]]))
        tensor(0.6500, dtype=torch.float64)
    """
    counts = confusion.double()
    sizes = counts.sum(dim=1)
    there = sizes > 0
    return (counts.diagonal()[there] / sizes[there]).mean()
