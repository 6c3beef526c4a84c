"""CReST+'s policy: pseudo-labels aligned to a distribution that becomes more even in the course of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.errors import UserError, check_number
from layermatch.functional import align_distribution, alignment_power, tempered_distribution
from layermatch.parts import Problem, QueueMean, Step
from layermatch.policies.base import Predictions, PseudoLabels
from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["ProgressiveAlignment"]

#: What is added to target and average. Source: the code of CReST.
EPSILON = 1e-6


class ProgressiveAlignment(FixedThreshold):
    r"""A fixed threshold on probabilities that are aligned to ever more even classes, in G stairs over the run.

    .. math::
        \tilde p = \mathrm{Normalise}\left(p \, \tilde n / a\right), \quad
        \tilde n_k \propto n_k^{t_g}, \quad t_g = 1 - \frac{g}{G - 1} (1 - t_{min}), \qquad
        \hat y = \arg\max \tilde p, \quad m = \mathbf{1}[\max \tilde p \ge \tau]

    with n the labelled images of each class, a the mean prediction of the last steps, which starts uniform and is
    without this step's, and g = 0, ..., G - 1 the generation. Source: CReST+ (Wei et al. 2021, section 3.3), and the
    authors' code for a.

    NOTE: In the paper each generation trains a new network, on a labelled set that the most confident pseudo-labels
    have joined. This policy is the alignment alone: one network goes through the generations' targets, with the
    labelled set as it is.

    Args:
        threshold: ``tau``, in ``(0, 1]``.
        generations: G, at least 1; with one the target is that of the labels.
        smallest_power: ``t_min``, in ``[0, 1]``.
        queue: The last steps whose mean prediction is a, at least 1.

    Raises:
        UserError: A value is out of range, or nobody says how many images of each class are labelled.

    Example:
        >>> policy = ProgressiveAlignment(threshold=0.5, queue=1)
        >>> policy.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100, label_counts=(3, 1)))
        >>> policy(Predictions(torch.tensor([[0.4, 0.6]]), torch.tensor([0]))).label
        tensor([0])
    """

    label_shares: Tensor
    steps: Tensor

    def __init__(
        self, *, threshold: float = 0.95, generations: int = 6, smallest_power: float = 0.5, queue: int = 128
    ) -> None:
        super().__init__(threshold=threshold)
        check_number("generations", generations, low=1, integer=True)
        check_number("smallest_power", smallest_power, low=0, high=1)
        check_number("queue", queue, low=1, integer=True)
        self.generations = generations
        self.smallest_power = smallest_power
        self.queue_length = queue
        self.max_steps = 1

    def prepare(self, problem: Problem) -> None:
        """Make the average, and note how often each class is among the labels; see :class:`Policy`."""
        super().prepare(problem)
        if not sum(problem.label_counts):
            raise UserError("ProgressiveAlignment needs Problem.label_counts, the labelled images of each class")
        counts = torch.tensor(problem.label_counts, dtype=torch.float32)
        uniform = torch.full_like(counts, 1 / problem.num_classes)
        self.average = QueueMean(uniform, length=self.queue_length, start=uniform)
        self.register_buffer("label_shares", counts / counts.sum(), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.max_steps = problem.max_steps

    @property
    def target(self) -> Tensor:
        """The distribution of classes that pseudo-labels are aligned to now, ``(K,)``."""
        generation = min(int(self.steps) * self.generations // self.max_steps, self.generations - 1)
        power = alignment_power(generation, generations=self.generations, smallest=self.smallest_power)
        return tempered_distribution(self.label_shares, power)

    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of a batch; see :class:`Policy`."""
        probs = predictions.probs_weak
        aligned = align_distribution(probs, self.target, self.average.value, epsilon=EPSILON)
        self.average.see(probs.mean(dim=0))
        return super().forward(predictions._replace(probs_weak=aligned))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Note how far the run is."""
        self.steps.fill_(step.number + 1)
