"""How clustered features are by class: scatter within and between classes, neural collapse, class centres.

Neural collapse (Papyan, Han and Donoho 2020) is the end of training where the features of a class shrink to their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["between_class_scatter", "nc1", "nearest_centre_accuracy", "within_class_scatter"]


def within_class_scatter(features: Tensor, label: Tensor) -> Tensor:
    r"""Return the mean squared distance of the features to the mean of their class.

    .. math:: \operatorname{tr}(S_W), \qquad S_W = \frac{1}{N} \sum_i (z_i - \mu_{y_i})(z_i - \mu_{y_i})^\top

    Source: Papyan, Han and Donoho 2020, section 2.

    Args:
        features: ``(N, D)`` float, ``N`` at least 1.
        label: ``(N,)`` int64.

    Returns:
        A scalar, at least 0, in squared units of the features.

    Example:
        >>> import torch
        >>> within_class_scatter(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]))
        tensor(0.6667)
    """
    centres, of_sample, _ = _class_centres(features, label)
    return (features - centres[of_sample]).square().sum() / len(features)


def between_class_scatter(features: Tensor, label: Tensor) -> Tensor:
    r"""Return the mean squared distance of the class means to their own mean.

    .. math:: \operatorname{tr}(S_B), \qquad
        S_B = \frac{1}{K} \sum_k (\mu_k - \bar\mu)(\mu_k - \bar\mu)^\top, \qquad \bar\mu = \frac{1}{K} \sum_k \mu_k

    over the ``K`` classes that have a sample. Source: Papyan, Han and Donoho 2020, section 2.

    NOTE: They take the mean over all samples in the place of the mean of the class means. The two are the same for
    classes of one size, which their data have; with this one each class counts the same for any.

    Args:
        features: ``(N, D)`` float, ``N`` at least 1.
        label: ``(N,)`` int64.

    Returns:
        A scalar, at least 0, in squared units of the features.

    Example:
        >>> import torch
        >>> between_class_scatter(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]))
        tensor(4.)
    """
    centres, _, _ = _class_centres(features, label)
    return (centres - centres.mean(dim=0)).square().sum() / len(centres)


def nc1(features: Tensor, label: Tensor) -> Tensor:
    r"""Measure neural collapse: how small the scatter within classes is, beside that between them.

    .. math:: \mathrm{NC1} = \frac{1}{K} \operatorname{tr}\left(S_W S_B^{+}\right)

    with the pseudo-inverse of :math:`S_B`; 0 where every feature is its class's mean. Unlike the two scatters it does
    not depend on the scale of the features. Source: Papyan, Han and Donoho 2020, section 2; see
    :func:`between_class_scatter` for classes of different size.

    Args:
        features: ``(N, D)`` float, ``N`` at least 1; in float64 small singular values are told from rounding.
        label: ``(N,)`` int64.

    Returns:
        A scalar, at least 0; NaN where all class means are the same.

    Example:
        >>> import torch
        >>> nc1(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1]))
        tensor(0.0833)
    """
    # Around 0, so that what is left over by rounding is small beside the means' differences.
    features = features - features.mean(dim=0)
    centres, of_sample, _ = _class_centres(features, label)
    # With centred means as the rows of M, S_B is M^T M / K: M's right singular vectors are S_B's eigenvectors. S_W is
    # needed in their directions only, so no D x D matrix is made.
    _, singular, directions = torch.linalg.svd(centres - centres.mean(dim=0), full_matrices=False)
    rounding = singular[0] * max(centres.shape) * torch.finfo(features.dtype).eps
    kept = singular > rounding
    kept[len(centres) - 1 :] = False  # K centred means span K - 1 directions
    if not bool(kept.any()):
        return features.new_full((), float("nan"))
    scaled: Tensor = (features - centres[of_sample]) @ directions[kept].T / singular[kept]
    return scaled.square().sum() / len(features)  # K of S_B's eigenvalues, s^2 / K, and the 1 / K in front cancel


def nearest_centre_accuracy(features: Tensor, label: Tensor) -> Tensor:
    r"""Return the share of samples whose nearest class mean is that of their own class.

    .. math:: \frac{1}{N} \sum_i \mathbf{1}\left[\arg\min_k \| z_i - \mu_k^{(-i)} \| = y_i\right]

    Source: Papyan, Han and Donoho 2020, NC4.

    NOTE: They take the means of the samples that are classified. With a few samples in a class each would pull its
    class's mean to itself, so here a sample does not count in the mean that it is compared with,
    :math:`\mu^{(-i)}`: :math:`z_i - \mu_{y_i}^{(-i)} = \frac{n}{n-1} (z_i - \mu_{y_i})` for ``n`` samples in the class.

    Args:
        features: ``(N, D)`` float, ``N`` at least 1.
        label: ``(N,)`` int64.

    Returns:
        A scalar in ``[0, 1]``, over the samples of classes that have at least two; NaN where there is none.

    Example:
        >>> import torch
        >>> nearest_centre_accuracy(torch.tensor([[0.0], [1.0], [5.0], [2.0]]), torch.tensor([0, 0, 1, 1]))
        tensor(0.7500)
    """
    centres, of_sample, counts = _class_centres(features, label)
    # Differences rather than |a|^2 - 2 ab + |b|^2: a mean that is far from 0 would cost all digits.
    distances = torch.cdist(features, centres, compute_mode="donot_use_mm_for_euclid_dist")  # (N, K)
    size = counts[of_sample].to(features.dtype)
    own = torch.nn.functional.one_hot(of_sample, len(centres)).bool()
    distances = torch.where(own, distances * (size / (size - 1).clamp(min=1))[:, None], distances)
    right = distances.argmin(dim=1) == of_sample
    return right[size > 1].to(features.dtype).mean()


def _class_centres(features: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute means ``(K, D)`` of the classes with samples, the row of each sample ``(N,)``, and sizes ``(K,)``."""
    _, of_sample, counts = torch.unique(label, return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, of_sample, features)
    return sums / counts[:, None], of_sample, counts
