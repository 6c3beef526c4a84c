"""Logistic regression on fixed features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LogisticRegression", "logistic_regression"]

#: The values of C that cross-validation chooses from, on features of scale 1.
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
#: C where a class has a single label, so that nothing can be held out.
_DEFAULT = 1.0
_FOLDS = 5
_ITERATIONS, _TOLERANCE = 1000, 1e-6
#: The bias of a class without a label, below those of all others.
_NEVER = 30.0


class LogisticRegression(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: W, ``(K, D)`` float32.
        bias: b, ``(K,)`` float32.
        strength: C, the inverse of the regularisation, on features of scale 1.
    """

    weight: Tensor
    bias: Tensor
    strength: float


def logistic_regression(features: Tensor, label: Tensor, *, num_classes: int) -> LogisticRegression:
    r"""Return the multinomial logistic regression of labels on features, the regularisation chosen by cross-validation.

    .. math:: \min_{W, b} \; C \sum_i H(y_i, W z_i / s + b) + \tfrac12 \lVert W \rVert_F^2,
       \qquad s^2 = \frac{1}{N} \sum_i \lVert z_i - \bar z \rVert^2

    Source: scikit-learn's ``LogisticRegression`` (L-BFGS), in float64; the scale s makes C the same for any network,
    and is in the weight that is returned. C is the one of 1e-3, 1e-2, ..., 1e3 with the least cross-entropy in
    stratified 5-fold cross-validation (as many folds as the rarest class has labels, if these are fewer), the smallest
    of equal ones. Where a class has a single label nothing can be held out, and C is 1. The folds are always the same.

    Args:
        features: z, ``(N, D)`` float.
        label: y, ``(N,)`` int64 in ``[0, K)``. A class without a label is never the most probable one.
        num_classes: K, at least 2.

    Returns:
        The classifier of z, not of z / s.

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [4.0], [5.0]])
        >>> found = logistic_regression(z, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> (z @ found.weight.T + found.bias).argmax(dim=1)
        tensor([0, 0, 1, 1])
    """
    rows: NDArray[np.float64] = features.detach().cpu().double().numpy()
    labels: NDArray[np.int64] = label.detach().cpu().numpy()
    centre = rows.mean(axis=0)
    # Centred: the bias is not regularised, so the optimum is the same, and L-BFGS comes to it sooner.
    scale = float(np.sqrt(np.square(rows - centre).sum(axis=1).mean())) or 1.0
    scaled = (rows - centre) / scale
    present = np.unique(labels)
    weight = np.zeros((num_classes, rows.shape[1]))
    bias = np.zeros(num_classes)
    strength = _DEFAULT
    if len(present) > 1:
        # W is in the span of the images: fewer than D images have fewer coordinates, and the same optimum.
        basis = np.linalg.svd(scaled, full_matrices=False)[2] if len(scaled) < scaled.shape[1] else None
        coordinates = scaled if basis is None else scaled @ basis.T
        strength = _chosen_strength(coordinates, labels)
        found, bias[present] = _fitted(coordinates, labels, strength=strength)
        weight[present] = found if basis is None else found @ basis
    weight /= scale
    bias -= weight @ centre
    absent = np.setdiff1d(np.arange(num_classes), present)
    bias[absent] = bias[present].min() - _NEVER
    return LogisticRegression(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), strength)


def _fitted(
    features: NDArray[np.float64], labels: NDArray[np.int64], *, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight and bias of each class that has labels, in the order of the classes."""
    from sklearn.linear_model import LogisticRegression as Solver

    # Of two classes scikit-learn fits the difference w of the rows: ||w||^2 is twice ||W||_F^2, W being (-w, w) / 2.
    of_two = 2 if len(np.unique(labels)) == 2 else 1
    solver = Solver(C=of_two * strength, max_iter=_ITERATIONS, tol=_TOLERANCE).fit(features, labels)
    weight, bias = solver.coef_, solver.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _chosen_strength(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    from sklearn.model_selection import StratifiedKFold

    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2:
        return _DEFAULT
    folds = StratifiedKFold(min(_FOLDS, int(counts.min())), shuffle=True, random_state=0)
    losses = np.zeros(len(_STRENGTHS))
    rank = np.unique(labels, return_inverse=True)[1]
    for learnt, held_out in folds.split(features, rank):
        for number, strength in enumerate(_STRENGTHS):
            weight, bias = _fitted(features[learnt], rank[learnt], strength=strength)
            logits = features[held_out] @ weight.T + bias
            logits -= logits.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(logits).sum(axis=1))
            losses[number] += float((log_sum - logits[np.arange(len(held_out)), rank[held_out]]).sum())
    return _STRENGTHS[int(np.argmin(losses))]
