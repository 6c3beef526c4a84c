"""Dash's policy: a threshold of the loss, which starts at that of the labels and falls."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import (
    cross_entropy_of_probabilities,
    falling_threshold,
    hard_pseudo_labels,
    loss_of_labels,
    sharpen,
)
from layermatch.parts import Problem, WarmUp
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["LossThreshold"]


class LossThreshold(Policy):
    r"""Pseudo-labels whose own loss is at most a threshold that falls in the course of the run.

    .. math:: m = \mathbf{1}[\ell \le \rho_k], \qquad \ell = -\log \max p, \qquad
        \rho_k = \max\left(C \gamma^{-k} \hat\rho, \; \rho_{\min}\right)

    In the warm-up no pseudo-label counts, and :math:`\hat\rho` is the mean loss of the labelled images in its last pass
    over them. After it k grows by one every ``drop_every``. The target is p at temperature T while
    :math:`\rho_k > \rho_{\min}`, and then the most probable class.

    Source: Dash (Xu et al. 2021, algorithm 1) for warm-up, threshold and :math:`\hat\rho`; its authors' code
    (idstcv/Dash) for the loss that is compared, the targets, the lower limit and the default values.

    NOTE: Here the loss of the batch is the mean over all images, as in FixMatch and USB; the authors' code divides by
    the number of those that count, and multiplies by 0.9. In its warm-up all pseudo-labels count, and its first
    threshold is their mean loss. In USB it is the loss of the evaluation images, and the warm-up comes before the run.
    We measure :math:`\hat\rho` while the network learns, not after it.

    Args:
        gamma: The factor of each fall of the threshold, at least 1.
        scale: ``C``, above 0.
        lowest: ``rho_min``, at least 0.
        temperature: ``T`` of the soft targets, above 0.
        warmup: The share of the run in which no pseudo-label counts, in ``[0, 1]``; it takes one step at least where
            ``first`` is measured.
        drop_every: The share of the run between two falls of the threshold, in ``(0, 1]``.
        first: ``rho^``, at least 0; None measures it.
        selection: Which loss is compared with the threshold. ``hard`` (the authors' code) is
            :math:`-\log \max p`; ``soft`` (USB) is the cross-entropy of p with the target.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> policy = LossThreshold(first=0.5, warmup=0.0)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> labelled = {"probs_labelled": torch.tensor([[0.9, 0.1]]), "label": torch.tensor([0])}
        >>> policy(Predictions(torch.tensor([[0.97, 0.03], [0.5, 0.5]]), torch.tensor([3, 7]), **labelled)).weight
        tensor([1., 0.])
    """

    needs_labelled: ClassVar[bool] = True

    def __init__(
        self,
        *,
        gamma: float = 1.27,
        scale: float = 1.0001,
        lowest: float = 0.05,
        temperature: float = 0.5,
        warmup: float = 0.01,
        drop_every: float = 0.0088,
        first: float | None = None,
        selection: str = "hard",
    ) -> None:
        super().__init__()
        check_number("gamma", gamma, low=1)
        check_number("scale", scale, low=0, low_open=True)
        check_number("lowest", lowest, low=0)
        check_number("temperature", temperature, low=0, low_open=True)
        check_number("warmup", warmup, low=0, high=1)
        check_number("drop_every", drop_every, low=0, high=1, low_open=True)
        if first is not None:
            check_number("first", first, low=0)
        check_choice("selection", selection, ("hard", "soft"))
        self.gamma, self.scale, self.lowest, self.temperature = gamma, scale, lowest, temperature
        self.warmup, self.drop_every, self.first, self.selection = warmup, drop_every, first, selection

    def prepare(self, problem: Problem) -> None:
        """Turn shares of the run into steps, and start before the warm-up."""
        self.num_classes = problem.num_classes
        steps = max(round(self.warmup * problem.max_steps), 1 if self.first is None else 0)
        self.warm_up = WarmUp(steps, num_labelled=problem.num_labelled)
        self.drop_steps = max(round(self.drop_every * problem.max_steps), 1)

    @property
    def threshold(self) -> Tensor:
        """The largest loss that counts, a scalar; minus infinity in the warm-up, when none does."""
        measured, since = self.warm_up.mean, self.warm_up.steps_since
        first = measured if self.first is None else torch.full_like(measured, self.first)
        drops = since.div(self.drop_steps, rounding_mode="floor").clamp(min=0)
        falling = falling_threshold(first, drops, scale=self.scale, gamma=self.gamma, lowest=self.lowest)
        return torch.where(since < 0, -torch.inf, falling)

    def thresholds(self) -> Tensor:
        """Return the confidence whose loss is the threshold, 1 in the warm-up; ``soft`` targets count as hard ones."""
        return (-self.threshold).exp().clamp(max=1).expand(self.num_classes)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        if predictions.probs_labelled is None or predictions.label is None:
            raise UserError("this policy compares with the labelled images, and the batch has none")
        self.warm_up.see(loss_of_labels(predictions.probs_labelled, predictions.label))
        probs, threshold = predictions.probs_weak, self.threshold
        label, confidence = hard_pseudo_labels(probs)
        one_hot = F.one_hot(label, self.num_classes).to(probs.dtype)
        target = torch.where(threshold > self.lowest, sharpen(probs, self.temperature), one_hot)
        loss = -confidence.log() if self.selection == "hard" else cross_entropy_of_probabilities(probs, target)
        return PseudoLabels(target, (loss <= threshold).float(), label, confidence)
