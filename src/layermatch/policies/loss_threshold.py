"""Dash's policy: a threshold of the loss, which starts at that of the labels and falls."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.distributed import all_reduce_sum_
from layermatch.errors import UserError, check_choice, check_number
from layermatch.functional import cross_entropy_of_probabilities, falling_threshold, hard_pseudo_labels, sharpen
from layermatch.parts import Problem, Step
from layermatch.policies.base import Policy, Predictions, PseudoLabels

__all__ = ["LossThreshold"]

SELECTIONS = ("hard", "soft")


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

    num_steps: Tensor
    of_last_pass: Tensor

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
        check_choice("selection", selection, SELECTIONS)
        self.gamma, self.scale, self.lowest, self.temperature = gamma, scale, lowest, temperature
        self.warmup, self.drop_every, self.first, self.selection = warmup, drop_every, first, selection
        #: For each batch of the step, of all ranks: the summed loss of its labelled images, and their number.
        self._seen: list[Tensor] = []

    def prepare(self, problem: Problem) -> None:
        """Turn shares of the run into steps, and start before the warm-up."""
        self.num_classes, self.num_labelled = problem.num_classes, problem.num_labelled
        self.warmup_steps = max(round(self.warmup * problem.max_steps), 1 if self.first is None else 0)
        self.drop_steps = max(round(self.drop_every * problem.max_steps), 1)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("of_last_pass", torch.zeros(2, dtype=torch.float64))  # like _seen, summed over its steps

    @property
    def threshold(self) -> Tensor:
        """The largest loss that counts, a scalar; minus infinity in the warm-up, when none does."""
        total, number = self.of_last_pass
        first = total / number.clamp(min=1) if self.first is None else torch.full_like(total, self.first)
        drops = (self.num_steps - self.warmup_steps).div(self.drop_steps, rounding_mode="floor").clamp(min=0)
        falling = falling_threshold(first, drops, scale=self.scale, gamma=self.gamma, lowest=self.lowest)
        return torch.where(self.num_steps < self.warmup_steps, -torch.inf, falling)

    def thresholds(self) -> Tensor:
        """The confidence whose loss is the threshold, 1 in the warm-up; with ``soft``, as if targets were hard."""
        return (-self.threshold).exp().clamp(max=1).expand(self.num_classes)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Pseudo-labels of a batch; see :class:`Policy`."""
        self._see_labelled(predictions)
        probs, threshold = predictions.probs_weak, self.threshold
        label, confidence = hard_pseudo_labels(probs)
        one_hot = F.one_hot(label, self.num_classes).to(probs.dtype)
        target = torch.where(threshold > self.lowest, sharpen(probs, self.temperature), one_hot)
        loss = -confidence.log() if self.selection == "hard" else cross_entropy_of_probabilities(probs, target)
        return PseudoLabels(target, (loss <= threshold).float(), label, confidence)

    def _see_labelled(self, predictions: Predictions) -> None:
        if predictions.probs_labelled is None or predictions.label is None:
            raise UserError("this policy compares with the labelled images, and the batch has none")
        probs = predictions.probs_labelled.gather(1, predictions.label[:, None])[:, 0].double()
        losses = -probs.clamp(min=torch.finfo(torch.float32).tiny).log()
        self._seen.append(all_reduce_sum_(torch.stack([losses.sum(), losses.new_full((), len(losses))])))

    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Count the step, and add its labelled losses where it is of the warm-up's last pass."""
        seen = torch.stack(self._seen).sum(dim=0)
        to_come = self.warmup_steps - self.num_steps - 1  # steps of the warm-up after this one
        is_of_last_pass = (to_come >= 0) & (to_come * seen[1] < self.num_labelled)
        self.of_last_pass += torch.where(is_of_last_pass, seen, 0.0)
        self.num_steps += 1
        self.discard_step()

    def discard_step(self) -> None:
        """Forget the losses of the step."""
        self._seen = []
