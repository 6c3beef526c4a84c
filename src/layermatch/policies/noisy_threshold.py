"""Pseudo-labels with errors put in at a known rate."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import check_number
from layermatch.functional import with_label_noise
from layermatch.functional.streams import uniforms
from layermatch.parts import Problem, Step
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["NoisyThreshold"]

#: The random stream of the errors: none of those that order the data and draw the views (10 to 22).
_NOISE = 30


class NoisyThreshold(FixedThreshold):
    r"""A fixed threshold, and errors at a known rate: what do wrong pseudo-labels do to a layer?

    .. math::
        \hat y = \begin{cases} \text{another class, uniformly} & \text{with probability } r \\
        \arg\max p & \text{else} \end{cases}, \qquad m = \mathbf{1}[\max p \ge \tau]

    Which samples get a wrong class, and which one, is a pure function of (``noise_seed``, step, sample): runs that
    differ in another setting meet the same errors, and so do any number of ranks. These errors come on top of the
    network's own. The confidence, and with it the mask, is that of the network. Source: ours, for study.

    NOTE: Such errors are independent from step to step and between classes, so they average out over a run, which
    the network's own errors do not: it makes the same ones again and again, mostly between classes that look alike.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        noise: ``r``, the share of pseudo-labels that get another class, in ``[0, 1]``.
        noise_seed: The seed of the errors, at least 0.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> policy = NoisyThreshold(threshold=0.9, noise=1.0)
        >>> from layermatch.parts import Problem
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> policy(Predictions(torch.tensor([[0.97, 0.03], [0.5, 0.5]]), torch.tensor([3, 7]))).target
        tensor([1, 1])
    """

    num_batches: Tensor

    def __init__(self, *, threshold: float = 0.95, noise: float = 0.2, noise_seed: int = 0) -> None:
        super().__init__(threshold=threshold)
        check_number("noise", noise, low=0, high=1)
        check_number("noise_seed", noise_seed, low=0, high=2**32 - 1, integer=True)
        self.noise = noise
        self.noise_seed = noise_seed
        self._num_pending = 0

    def prepare(self, problem: Problem) -> None:
        """Remember the sizes, and start to count the batches; see :class:`Policy`."""
        super().prepare(problem)
        self.num_unlabelled = problem.num_unlabelled
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        clean = super().forward(predictions)
        draws = self._draws(predictions.indices)
        label = with_label_noise(clean.label, draws, noise=self.noise, num_classes=self.num_classes)
        self._num_pending += 1
        return clean._replace(target=label, label=label)

    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Count the batches of the step."""
        self.num_batches += self._num_pending
        self._num_pending = 0

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._num_pending = 0

    def _draws(self, indices: Tensor) -> Tensor:
        """Draw this batch's random numbers ``(N, 2)``: each step has a row of its own for every image of the pool."""
        pool = self.num_unlabelled
        start = (int(self.num_batches) + self._num_pending) * pool
        table = uniforms(seed=self.noise_seed, stream=_NOISE, start=start, count=pool, width=2)
        return torch.from_numpy(table).to(indices.device)[indices]
