"""What a teacher says is learnt by a head of its own, and both heads predict together."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.functional.clustering import class_sums

__all__ = ["class_means", "distillation_loss", "mixed_log_probabilities"]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    r"""Return how far a head is from its teacher, both softened.

    .. math:: T^2 \, \frac{1}{N} \sum_u \mathrm{KL}\left(\mathrm{softmax}(t_u / T) \,\|\,
        \mathrm{softmax}(\ell_u / T)\right)

    Source: Hinton, Vinyals and Dean 2015; DHO (Kang et al. 2025, arXiv 2505.07675) in the authors' code.

    Args:
        logits: ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        teacher_logits: ``(N, K)`` float, without a gradient.
        temperature: T, above 0.

    Returns:
        A scalar, at least 0; 0 with a gradient of 0 when ``N`` is 0.

    Example:
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), temperature=1.0)
        tensor(0.3278)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    if logits.shape[0] == 0:
        return logits.sum()
    target = (teacher_logits.detach().to(logits.dtype) / temperature).log_softmax(dim=1)
    found = (logits / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(found, target, reduction="batchmean", log_target=True)


def mixed_log_probabilities(first: Tensor, second: Tensor, *, alpha: float, beta: float) -> Tensor:
    r"""Return the logarithm of what two heads say together.

    .. math:: \log\left(\alpha \, \mathrm{softmax}(\ell_1) + (1 - \alpha) \, \mathrm{softmax}(\ell_2 / \beta)\right)

    Their softmax is the mixture, so they are logits. Source: DHO (arXiv 2505.07675).

    Args:
        first: The logits of the head of the labels, ``(N, K)``, any float dtype; computed in float32 (float64 stays).
        second: Those of the head of the teacher, ``(N, K)``.
        alpha: The weight of the first head, in ``[0, 1]``.
        beta: The temperature of the second one, above 0.

    Returns:
        ``(N, K)``.

    Example:
        >>> both = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> mixed_log_probabilities(*both, alpha=0.5, beta=2.0).exp()
        tensor([[0.6155, 0.3845]])
    """
    parts = []
    for logits, weight, temperature in ((first, alpha, 1.0), (second, 1 - alpha, beta)):
        if weight > 0:
            exact = logits.float() if logits.dtype.itemsize < 4 else logits
            parts.append((exact / temperature).log_softmax(dim=1) + math.log(weight))
    return parts[0] if len(parts) == 1 else torch.logaddexp(*parts)


def class_means(features: Tensor, label: Tensor, *, num_classes: int) -> Tensor:
    r"""Return the mean of the features of each class, each scaled to length 1, and the mean scaled likewise.

    .. math:: \mu_k = \frac{m_k}{\|m_k\|}, \qquad m_k = \frac{1}{n_k} \sum_{i: y_i = k} \frac{z_i}{\|z_i\|}

    Source: as CLIP (Radford et al. 2021) makes a class's weight of the embeddings of several texts; ours of images.

    Args:
        features: z, ``(N, D)``, any float dtype; computed in float32 (float64 stays).
        label: ``(N,)`` int64.
        num_classes: K.

    Returns:
        ``(K, D)``; 0 for a class without images.

    Example:
        >>> class_means(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([1, 1]), num_classes=2)
        tensor([[0.0000, 0.0000],
                [0.7071, 0.7071]])
    """
    features = features.float() if features.dtype.itemsize < 4 else features
    weight = features.new_ones(len(features))
    sums, _ = class_sums(F.normalize(features, dim=1), label, weight, num_classes=num_classes)
    return F.normalize(sums, dim=1)
