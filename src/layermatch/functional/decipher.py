"""How far a network's prediction is from a label that is learnt with it, and where the label should go."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import check_choice

__all__ = ["DIVERGENCES", "label_divergence", "label_gradient", "prediction_entropy"]

#: What :func:`label_divergence` may measure by.
DIVERGENCES = ("kl_reverse", "kl", "mse")


def label_divergence(logits: Tensor, label_logits: Tensor, *, kind: str = "kl_reverse") -> Tensor:
    r"""Return how far each prediction is from the label of its image, both given by logits.

    With :math:`f = \mathrm{softmax}(\ell)` and :math:`y = \mathrm{softmax}(\tilde y)`,

    .. math:: \mathrm{KL}(f \| y) = \sum_k f_k \log \frac{f_k}{y_k} \;\text{(kl\_reverse)}, \qquad
        \mathrm{KL}(y \| f) \;\text{(kl)}, \qquad \sum_k (y_k - f_k)^2 \;\text{(mse)}

    Source: R2-D2 (Wang and Wu 2020), which uses the first; the others are options of the authors' code.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays). The gradient goes here.
        label_logits: ``(N, K)`` float, without a gradient.
        kind: One of :data:`DIVERGENCES`.

    Returns:
        ``(N,)``.

    Raises:
        UserError: The kind is not legal.

    Example:
        >>> label_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 0.0]]))
        tensor([0.])
    """
    check_choice("divergence", kind, DIVERGENCES)
    log_f, log_y = _log_softmax(logits), _log_softmax(label_logits)
    if kind == "mse":
        return (log_y.exp() - log_f.exp()).square().sum(dim=1)
    if kind == "kl":
        return (log_y.exp() * (log_y - log_f)).sum(dim=1)
    return (log_f.exp() * (log_f - log_y)).sum(dim=1)


@torch.no_grad()
def label_gradient(logits: Tensor, label_logits: Tensor, *, kind: str = "kl_reverse") -> Tensor:
    r"""Return the gradient of :func:`label_divergence` by the label's logits.

    .. math:: \frac{\partial \mathrm{KL}(f \| y)}{\partial \tilde y} = y - f, \qquad
        \frac{\partial \mathrm{KL}(y \| f)}{\partial \tilde y_k} =
        y_k \left(\log \frac{y_k}{f_k} - \mathrm{KL}(y \| f)\right), \qquad
        2 y_k \Big(d_k - \sum_j y_j d_j\Big) \;\text{with}\; d = y - f

    Source: derived from the definitions; R2-D2 (Wang and Wu 2020) lets automatic differentiation do it.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        label_logits: ``(N, K)`` float.
        kind: One of :data:`DIVERGENCES`.

    Returns:
        ``(N, K)``, each row that of its image's divergence alone.

    Raises:
        UserError: The kind is not legal.

    Example:
        >>> label_gradient(torch.tensor([[9.0, -9.0]]), torch.zeros(1, 2)).round(decimals=4)
        tensor([[-0.5000,  0.5000]])
    """
    check_choice("divergence", kind, DIVERGENCES)
    log_f, log_y = _log_softmax(logits), _log_softmax(label_logits)
    y, difference = log_y.exp(), log_y.exp() - log_f.exp()
    if kind == "kl_reverse":
        return difference
    if kind == "mse":
        difference, scale = 2 * difference, y
    else:
        difference, scale = log_y - log_f, y
    return scale * (difference - (y * difference).sum(dim=1, keepdim=True))


def prediction_entropy(logits: Tensor) -> Tensor:
    r"""Return the entropy of each prediction, in nats, with a gradient that is finite for certain predictions too.

    .. math:: H(f) = -\sum_k f_k \log f_k, \qquad f = \mathrm{softmax}(\ell)

    Source: R2-D2 (Wang and Wu 2020), which minimises it.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).

    Returns:
        ``(N,)``.

    Example:
        >>> prediction_entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_f = _log_softmax(logits)
    return -(log_f.exp() * log_f).sum(dim=1)


def _log_softmax(logits: Tensor) -> Tensor:
    return (logits.float() if logits.dtype.itemsize < 4 else logits).log_softmax(dim=1)
