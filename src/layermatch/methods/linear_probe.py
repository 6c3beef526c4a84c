"""The baseline of a pretrained network: a linear classifier on its features, from labelled images only."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from layermatch.data.batch import Batch, Views
from layermatch.functional import logistic_regression, supervised_loss
from layermatch.methods.base import Method
from layermatch.networks import CLASSIFIER, linear_float32
from layermatch.parts import Losses, Step, Term

__all__ = ["LinearProbe"]


class LinearProbe(Method):
    r"""Multinomial logistic regression on the features of the labelled images as they are, solved to its optimum.

    .. math:: \min_{W, b} \; C \sum_i H(y_i, W f(x_i) + b) + \tfrac{s^2}{2} \lVert W \rVert_F^2

    with :math:`s` the scale of the features. Source: the linear probe of CLIP (Radford et al. 2021), which is
    scikit-learn's logistic regression by L-BFGS, its regularisation chosen on held-out images. The extractor learns
    nothing. C is chosen by cross-validation on the labelled images alone; see
    :func:`~layermatch.functional.logistic_regression`.

    The training module computes the classifier after the last step (:meth:`solve`); a run needs one step only.

    NOTE: A probe by stochastic gradient descent, as for the whole of ImageNet, has a learning rate, a length and a
    weight decay to be chosen, which a few labels do not allow. The problem is convex: this one has a single answer.
    """

    views: ClassVar[Views] = Views(labelled={"plain": "plain"})
    solves: ClassVar[bool] = True

    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the cross-entropy of the classifier as it is before it is solved, which the log shows."""
        network = step.network
        modes = {module: module.training for module in network.modules()}
        network.eval()  # a probe leaves BatchNorm's statistics alone, too
        try:
            with torch.no_grad():
                features = network(batch.labelled.views["plain"], heads=()).features
        finally:
            for module, mode in modes.items():
                module.training = mode
        logits = linear_float32(features, network.classifier.weight, network.classifier.bias)
        loss = supervised_loss(logits, batch.labelled.label)
        return Losses(supervised=Term(loss, reaches=frozenset({CLASSIFIER})))

    def solve(self, features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the classifier; see :class:`Method`."""
        solution = logistic_regression(features, label, num_classes=num_classes)
        return solution.weight, solution.bias
