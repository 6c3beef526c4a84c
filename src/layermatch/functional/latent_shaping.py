"""JEPAMatch's equations: embeddings that have a given distribution, class by class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.schedules import cosine_ramp

__all__ = ["repulsion_loss", "shaping_degree", "sketched_gaussian_loss", "view_spread"]

#: The points at which characteristic functions are compared: so many from 0 to there.
_KNOTS, _FURTHEST = 17, 5.0


def shaping_degree(progress: float, *, warmup: float) -> float:
    r"""Return how far embeddings are shaped class by class: 0, then half a cosine up to 1, then 1.

    .. math:: \alpha = \tfrac{1}{2} - \tfrac{1}{2} \cos(\pi s), \qquad
        s = \min\left(1, \max\left(0, \frac{t - w}{1 - 2 w}\right)\right)

    Source: JEPAMatch (Aghababaei-Harandi et al. 2026, section 4.2), from the authors' code.

    Args:
        progress: t, the share of the run that is done, in ``[0, 1]``.
        warmup: w, the share of the run before the rise, which ends as long before the end, in ``[0, 0.5]``.

    Returns:
        alpha, in ``[0, 1]``.

    Example:
        >>> [round(shaping_degree(t, warmup=0.25), 3) for t in (0.2, 0.5, 0.6, 0.75)]
        [0.0, 0.5, 0.794, 1.0]
    """
    if progress < warmup:
        return 0.0
    return cosine_ramp(progress - warmup, length=max(1 - 2 * warmup, 0.0))


def view_spread(views: Tensor, centre: Tensor) -> Tensor:
    r"""Return the mean squared distance of the embeddings of an image's views from its centre.

    .. math:: L_{pred} = \frac{1}{V N} \sum_{v, u} \| e_{vu} - c_u \|^2

    Source: JEPAMatch, from the authors' code.

    Args:
        views: ``(V, N, D)`` float, the embeddings of V views of N images.
        centre: ``(N, D)`` float; the gradient goes here too.

    Returns:
        A scalar, at least float32; 0 with a gradient of 0 when there is no view.

    Example:
        >>> view_spread(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), torch.zeros(1, 2))
        tensor(12.5000)
    """
    views = views.float() if views.dtype.itemsize < 4 else views
    return (views - centre.to(views.dtype)).square().sum() / max(views.shape[0] * views.shape[1], 1)


def sketched_gaussian_loss(points: Tensor, directions: Tensor, *, deviation: float = 1.0) -> Tensor:
    r"""Return how far the distribution of points is from a Gaussian about 0, seen along some directions.

    .. math::
        L_{sig} = \frac{N}{S} \sum_s \sum_k w_k \left[\Big(\frac{1}{N} \sum_i \cos(t_k a_s \cdot e_i) - \phi_k\Big)^2
        + \Big(\frac{1}{N} \sum_i \sin(t_k a_s \cdot e_i)\Big)^2\right], \qquad
        \phi_k = e^{-t_k^2 \sigma^2 / 2}

    The characteristic function of each projection is compared with that of :math:`N(0, \sigma^2)` at 17 points from 0
    to 5; :math:`w_k` is :math:`\phi_k` times the weight of the trapezoidal rule over both signs of t.

    Source: SIGReg of LeJEPA (Balestriero and LeCun 2025), as in JEPAMatch, from the authors' code.

    NOTE: The loss grows with N, so it is no mean over images, and under DDP each rank compares its own.

    Args:
        points: ``(N, D)`` float e.
        directions: ``(D, S)`` float a, columns of length 1.
        deviation: sigma, above 0.

    Returns:
        A scalar, at least float32; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> points = torch.randn(2000, 1)
        >>> near, far = (sketched_gaussian_loss(scale * points, torch.ones(1, 1)) for scale in (1.0, 2.0))
        >>> bool(near < 1 < 50 < far)
        True
    """
    dtype = torch.promote_types(points.dtype, torch.float32)
    if not len(points):
        return points.to(dtype).sum()
    t = torch.linspace(0, _FURTHEST, _KNOTS, dtype=dtype, device=points.device)
    step = _FURTHEST / (_KNOTS - 1)
    weight = torch.full_like(t, 2 * step)
    weight[0] = weight[-1] = step
    expected = (t.square() * (-(deviation**2) / 2)).exp()
    with torch.autocast(points.device.type, enabled=False):
        angles = (points.to(dtype) @ directions.to(dtype))[:, :, None] * t  # (N, S, T)
        error = (angles.cos().mean(dim=0) - expected).square() + angles.sin().mean(dim=0).square()  # (S, T)
        return len(points) * (error @ (weight * expected)).mean()


def repulsion_loss(means: Tensor, present: Tensor) -> Tensor:
    r"""Return how much the means of classes point the same way.

    .. math:: L_{rep} = \frac{1}{P (P - 1)} \sum_{i \ne j} \max(0, \cos(\mu_i, \mu_j))^2

    over the P classes that are there. Source: JEPAMatch, from the authors' code.

    Args:
        means: ``(K, D)`` float.
        present: ``(K,)`` bool, the classes that are there.

    Returns:
        A scalar, at least float32; 0 with a gradient of 0 where fewer than two are there.

    Example:
        >>> repulsion_loss(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([True, True, False]))
        tensor(1.)
    """
    means = means.float() if means.dtype.itemsize < 4 else means
    with torch.autocast(means.device.type, enabled=False):
        unit = F.normalize(means, dim=1)
        similar = (unit @ unit.T).clamp(min=0).square()
    pairs = (present[:, None] & present).to(similar.dtype).fill_diagonal_(0)
    return (similar * pairs).sum() / pairs.sum().clamp(min=1)
