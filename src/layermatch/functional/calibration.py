"""How far confidences are frequencies, and the temperature that brings them nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from layermatch.errors import UserError

__all__ = ["Reliability", "fit_temperature", "reliability"]

#: The bins of the expected calibration error (Guo et al. 2017).
NUM_BINS = 15

#: The range in which a temperature is looked for.
LOWEST, HIGHEST = 0.02, 50.0


@dataclass(frozen=True)
class Reliability:
    """How well probabilities say how often they are right.

    Attributes:
        accuracy: The share of images whose most probable class is right, in ``[0, 1]``.
        ece: The expected calibration error, in ``[0, 1]``; 0 where confidences are frequencies.
        nll: The negative log-likelihood of the true class in nats, at least 0.
        brier: The Brier score, the squared distance to the true class's indicator, in ``[0, 2]``.
    """

    accuracy: float
    ece: float
    nll: float
    brier: float


def reliability(logits: Tensor, label: Tensor, *, temperature: float = 1.0) -> Reliability:
    r"""Return how well :math:`p = \mathrm{softmax}(\ell / T)` says how often it is right.

    .. math::
        \mathrm{ECE} = \sum_b \frac{N_b}{N} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|, \qquad
        \mathrm{NLL} = -\frac{1}{N} \sum_n \log p_{n, y_n}, \qquad
        \mathrm{Brier} = \frac{1}{N} \sum_n \sum_k (p_{nk} - [k = y_n])^2

    Source: Guo et al. 2017 (section 2; 15 bins of equal width); Brier 1950.

    Args:
        logits: ``(N, K)``, any float dtype, N at least 1.
        label: ``(N,)`` int64 in ``[0, K)``.
        temperature: T, above 0.

    Example:
        >>> import torch
        >>> reliability(torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1])).accuracy
        0.5
    """
    log_probs = (logits.double() / temperature).log_softmax(dim=1)
    probs = log_probs.exp()
    hits = F.one_hot(label, probs.shape[1])
    ece = multiclass_calibration_error(probs.float(), label, num_classes=probs.shape[1], n_bins=NUM_BINS, norm="l1")
    return Reliability(
        accuracy=float((probs.argmax(dim=1) == label).double().mean()),
        ece=float(ece),
        nll=float(F.nll_loss(log_probs, label)),
        brier=float((probs - hits).square().sum(dim=1).mean()),
    )


def fit_temperature(logits: Tensor, label: Tensor) -> float:
    r"""Return the temperature of least negative log-likelihood.

    .. math:: T = \arg\min_T -\sum_n \log \mathrm{softmax}(\ell_n / T)_{y_n}

    The likelihood is concave in :math:`1/T`, so there is one minimum; it is looked for between 0.02 and 50. No
    temperature changes which class is the most probable one. Source: Guo et al. 2017 (section 4.2).

    Args:
        logits: ``(N, K)``, any float dtype, N at least 1.
        label: ``(N,)`` int64 in ``[0, K)``.

    Returns:
        T, above 0: above 1 where the network is too confident.

    Raises:
        UserError: There is no such temperature within the range: every image is right, however small it is, the
            logits tell nothing, or hardly differ.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]])
        >>> round(9 / fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)  # log(0.75 / 0.25)
        1.099
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), label))

    if bool((logits.argmax(dim=1) == label).all()):  # the likelihood grows for ever as T falls
        raise _no_fit(label, "every image is right, with any confidence")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    if found.x < low + 1e-3:
        raise _no_fit(label, "the logits are too close to one another")
    if found.x > high - 1e-3:
        raise _no_fit(label, "the logits tell nothing of the classes")
    return math.exp(found.x)


def _no_fit(label: Tensor, why: str) -> UserError:
    return UserError(f"no temperature fits {len(label):,} images: {why}: give more validation images")
