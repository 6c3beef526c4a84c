"""Training Signal Annealing: labels that the network knows already do not count yet."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["ANNEALING_FORMS", "ANNEALING_SCHEDULES", "annealed_supervised_loss", "annealing_threshold"]

#: How the threshold grows; ``none`` is 1 throughout.
ANNEALING_SCHEDULES = ("none", "linear", "log", "exp")
#: Which probability is compared with the threshold, and what the loss is divided by.
ANNEALING_FORMS = ("paper", "torchssl")

#: The steepness of ``log`` and ``exp``.
_SCALE = 5.0


def annealing_threshold(schedule: str, progress: float, *, num_classes: int) -> float:
    r"""Return the probability above which a labelled image does not count, which grows from chance to 1.

    .. math:: \eta_t = \alpha_t \left(1 - \frac{1}{K}\right) + \frac{1}{K}, \qquad
        \alpha_t = \begin{cases} t & \text{linear} \\ 1 - e^{-5 t} & \text{log} \\ e^{5 (t - 1)} & \text{exp}
        \end{cases}

    Source: UDA (Xie et al. 2020, "Training Signal Annealing").

    Args:
        schedule: ``none`` (1 throughout), ``linear``, ``log`` or ``exp``.
        progress: ``t``, the share of the run that is done, in ``[0, 1]``.
        num_classes: ``K``, at least 2.

    Returns:
        ``eta``, in ``[1 / K, 1]``.

    Example:
        >>> annealing_threshold("linear", 0.5, num_classes=2), annealing_threshold("none", 0.5, num_classes=2)
        (0.75, 1.0)
    """
    alphas = {
        "none": 1.0,
        "linear": progress,
        "log": 1 - math.exp(-_SCALE * progress),
        "exp": math.exp(_SCALE * (progress - 1)),
    }
    return alphas[schedule] * (1 - 1 / num_classes) + 1 / num_classes


def annealed_supervised_loss(logits: Tensor, label: Tensor, *, threshold: float, form: str = "paper") -> Tensor:
    r"""Return the cross-entropy of the labelled images that are not known yet.

    .. math:: L_s = \frac{\sum_i m_i H(y_i, \ell_i)}{\max(1, \sum_i m_i)}, \qquad
        m_i = \mathbf{1}[\mathrm{softmax}(\ell_i)_{y_i} \le \eta]

    Source: UDA (Xie et al. 2020) and its authors' code. ``torchssl`` is what TorchSSL and USB do instead: the largest
    probability is compared, whatever its class, and the loss is divided by all ``B`` images.

    Args:
        logits: ``(B, K)``, any float dtype; computed in float32 (float64 stays).
        label: ``(B,)`` int64, class indices in ``[0, K)``.
        threshold: ``eta``, in ``(0, 1]``.
        form: ``paper`` or ``torchssl``.

    Returns:
        A scalar; 0 with a gradient of 0 where no image counts.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])  # the true classes have 0.88 and 0.5
        >>> annealed_supervised_loss(logits, torch.tensor([0, 1]), threshold=0.75)
        tensor(0.6931)
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    losses = F.cross_entropy(logits, label, reduction="none")  # (B,)
    probs = logits.detach().softmax(dim=-1)
    compared = probs.gather(-1, label[:, None])[:, 0] if form == "paper" else probs.amax(dim=-1)
    counts = (compared <= threshold).to(losses.dtype)
    divisor = counts.sum().clamp(min=1) if form == "paper" else max(len(losses), 1)
    return (losses * counts).sum() / divisor
