"""How the gradient of a pseudo-label loss joins the supervised one, parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

__all__ = ["cosine_similarity", "keep_agreeing", "scale_for"]


def keep_agreeing(grad_pseudo: Tensor, grad_supervised: Tensor) -> Tensor:
    r"""Return the components of the pseudo-label gradient whose sign agrees with the supervised one.

    .. math:: g_i = g^u_i \cdot \mathbf{1}[g^u_i \, g^s_i > 0]

    Source: ours, for study (``layerwise.grad_relu=conflict``).

    Args:
        grad_pseudo: A float tensor of any shape.
        grad_supervised: The same shape.

    Returns:
        The same shape; components that disagree, or where either is 0, are 0.

    Example:
        >>> import torch
        >>> keep_agreeing(torch.tensor([1.0, -1.0, 2.0]), torch.tensor([3.0, 1.0, 0.0]))
        tensor([1., 0., 0.])
    """
    agrees = grad_pseudo.sign() * grad_supervised.sign() > 0  # signs: the product itself could underflow to 0
    return torch.where(agrees, grad_pseudo, torch.zeros_like(grad_pseudo))


def cosine_similarity(first: Tensor, second: Tensor) -> Tensor:
    r"""Return the cosine of the angle between two gradients, each taken as one long vector.

    .. math:: \cos = \frac{\langle g, h \rangle}{\|g\| \, \|h\|}

    NOTE: ``torch.nn.functional.cosine_similarity`` gives 0 where a vector is 0. A gradient that is 0 has no direction:
    here that is NaN, which is told apart from a right angle.

    Args:
        first: A float tensor of any shape.
        second: The same shape.

    Returns:
        A scalar in ``[-1, 1]`` up to rounding; NaN where either is 0.

    Example:
        >>> import torch
        >>> cosine_similarity(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 3.0]))
        tensor(0.8000)
    """
    first, second = first.flatten(), second.flatten()
    # Normalised one by one: the product of two small norms could underflow to 0.
    return torch.dot(first / torch.linalg.vector_norm(first), second / torch.linalg.vector_norm(second))


def scale_for(name: str, scales: Mapping[str, float]) -> float:
    """Return the pseudo-label gradient scale of one parameter.

    A pattern matches a parameter's whole name with shell wildcards, or any module that holds it: ``classifier``
    matches ``classifier.weight``. A later pattern overrules an earlier one; without a match the scale is 1.

    Args:
        name: The parameter's name, for example ``extractor.groups.0.0.conv1.weight``.
        scales: A scale in ``[0, 1]`` for each pattern, in order.

    Returns:
        The scale.

    Example:
        >>> scale_for("classifier.weight", {"classifier": 0.0}), scale_for("extractor.stem.weight", {"*.bias": 0.5})
        (0.0, 1.0)
    """
    scale = 1.0
    for pattern, value in scales.items():
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*"):
            scale = value
    return scale
