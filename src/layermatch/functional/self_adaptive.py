"""Thresholds that follow how sure the network is of each class, and the fairness of what passes them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.product import product_float32

__all__ = ["class_histogram", "fairness_loss", "self_adaptive_thresholds"]

#: What the codes of FreeMatch add inside of the logarithm, for a class that no strong view is predicted to be of.
INSIDE_LOG = 1e-12


def class_histogram(label: Tensor, num_classes: int, weight: Tensor | None = None) -> Tensor:
    r"""Return the share of each class among samples.

    .. math:: h_c = \frac{\sum_u m_u \, \mathbf{1}[\hat y_u = c]}{\sum_u m_u}

    Args:
        label: ``(N,)`` int64 in ``[0, K)``.
        num_classes: K.
        weight: ``(N,)`` float, at least 0: how much each sample counts; None is 1 for each.

    Returns:
        ``(K,)`` float32, or float64 where ``weight`` is; zeros where nothing counts.

    Example:
        >>> import torch
        >>> class_histogram(torch.tensor([0, 2, 2, 2]), 3)
        tensor([0.2500, 0.0000, 0.7500])
    """
    weight = torch.ones(len(label), device=label.device) if weight is None else weight
    # A matrix product rather than index_add: its order of additions is fixed on CUDA too.
    counts = product_float32(weight, F.one_hot(label, num_classes).to(weight.dtype))
    return counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)


def self_adaptive_thresholds(confidence: Tensor, probs: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    r"""Return the threshold of each class: the global one, lowered for classes that are predicted less.

    .. math:: \tau(c) = \mathrm{clip}\left(\frac{\tilde p(c)}{\max_k \tilde p(k)} \, \tau, \; l, \; h\right)

    Source: FreeMatch (Wang et al. 2023, section 3), clipped to ``[0.9, 0.95]`` for SVHN alone.

    Args:
        confidence: Scalar: the running mean of confidences, tau.
        probs: ``(K,)``: the running mean of probabilities.
        low: l, in ``[0, 1]``.
        high: h, in ``[0, 1]``.

    Returns:
        ``(K,)``.

    Example:
        >>> import torch
        >>> self_adaptive_thresholds(torch.tensor(0.8), torch.tensor([0.5, 0.25, 0.25]))
        tensor([0.8000, 0.4000, 0.4000])
    """
    return (confidence * probs / probs.max()).clamp(low, high)


def fairness_loss(logits: Tensor, weight: Tensor, probs: Tensor, histogram: Tensor) -> Tensor:
    r"""Negate the cross-entropy between what is predicted in the long run and what accepted strong views are now.

    .. math:: L_f = \sum_c \mathrm{Norm}\left(\frac{\tilde p}{\tilde h}\right)_c
        \log \mathrm{Norm}\left(\frac{\bar p}{\bar h}\right)_c

    with :math:`\bar p` the mean probabilities of the accepted strong views and :math:`\bar h` the histogram of their
    classes; a class with :math:`\bar h_c = 0` has a quotient of 0. It is minimised and negative: strong views are
    taught to be of all classes. Source: FreeMatch (Wang et al. 2023, section 3, self-adaptive fairness); the codes put
    :math:`10^{-12}` inside of the logarithm.

    Args:
        logits: ``(N, K)``, those of the strong views; computed in float32 (float64 stays). The gradient goes here.
        weight: ``(N,)`` float; what is above 0 is accepted.
        probs: ``(K,)``: the running mean of probabilities.
        histogram: ``(K,)``: the running mean of the histograms of pseudo-labels.

    Returns:
        A scalar; 0 with a gradient of 0 where nothing is accepted.

    Example:
        >>> import torch
        >>> uniform = torch.full((2,), 0.5)
        >>> fairness_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2), uniform, uniform)
        tensor(-0.6931)
    """
    strong = (logits.float() if logits.dtype.itemsize < 4 else logits).softmax(dim=-1)
    accepted = (weight > 0).to(strong.dtype)
    num_accepted = accepted.sum()
    mean = product_float32(accepted, strong) / num_accepted.clamp(min=1)
    found = class_histogram(strong.argmax(dim=-1), logits.shape[-1], accepted)
    wanted = _normalised_quotient(probs, histogram).to(strong.dtype)
    quotient = _normalised_quotient(mean, found)
    return (wanted * (quotient + INSIDE_LOG).log()).sum() * (num_accepted > 0)


def _normalised_quotient(probs: Tensor, histogram: Tensor) -> Tensor:
    """Return the quotients that sum to 1, with 0 where the histogram is 0."""
    quotient = torch.where(histogram > 0, probs / torch.where(histogram > 0, histogram, 1), 0)
    return quotient / quotient.sum().clamp(min=torch.finfo(quotient.dtype).tiny)
