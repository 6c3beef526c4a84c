"""Distribution alignment: pseudo-labels whose classes come as often as they should."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_mean_
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.functional import align_distribution
from layermatch.parts.running import RunningMean
from layermatch.parts.step import Problem, Step, StepState

__all__ = ["DistributionAlignment", "QueueMean", "RunningFromFirst"]

TARGETS = ("uniform", "labelled", "predictions")
STARTS = ("first", "uniform")

#: The decay of the running means unless said otherwise.
DECAY = 0.999


class RunningFromFirst(RunningMean):
    """A running mean that starts at what the first step shows, so that the first value given is only a shape.

    Source: USB, whose average of predictions starts at the first batch.

    Example:
        >>> running = RunningFromFirst(torch.zeros(2), decay=0.9)
        >>> running.see(torch.tensor([0.25, 0.75]))
        >>> running.moved
        tensor([0.2500, 0.7500])
    """

    started: Tensor

    def __init__(self, start: Tensor, *, decay: float) -> None:
        super().__init__(start, decay=decay)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @property
    def moved(self) -> Tensor:
        """The average with the batches of this step in it."""
        if not self._seen:
            return self.value
        return torch.where(self.started, super().moved, torch.stack(self._seen).mean(dim=0))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the average by the batches of the step."""
        has_seen = bool(self._seen)
        super().after_step(step)
        self.started |= has_seen


class QueueMean(StepState):
    r"""The mean of what the last steps showed, the same on every rank.

    .. math:: a = \frac{1}{\min(n, Q)} \sum_{i = \max(1, n - Q + 1)}^{n} v_i

    with :math:`v_i` the mean over the batches of step i and over all ranks. Source: the buffer of ReMixMatch (Berthelot
    et al. 2020, section 3.1) and the queues of CoMatch and SimMatch.

    Args:
        shape: A tensor of the shape of a value.
        length: Q, the steps that are kept, at least 1.
        start: What fills the queue before the first step, of the shape of a value; None leaves it empty, and the mean
            is over the steps that there are.

    Raises:
        UserError: The length is out of range.

    Example:
        >>> queue = QueueMean(torch.zeros(2), length=3)
        >>> queue.see(torch.tensor([0.25, 0.75]))
        >>> queue.moved
        tensor([0.2500, 0.7500])
    """

    entries: Tensor
    count: Tensor

    def __init__(self, shape: Tensor, *, length: int, start: Tensor | None = None) -> None:
        super().__init__()
        check_number("queue", length, low=1, integer=True)
        first = torch.zeros_like(shape) if start is None else start
        self.register_buffer("entries", first.detach().expand(length, *shape.shape).clone())
        self.register_buffer("count", torch.tensor(0 if start is None else length))
        self._seen: list[Tensor] = []

    @torch.no_grad()
    def see(self, value: Tensor) -> None:
        """Take what one batch shows; see :meth:`~layermatch.parts.RunningMean.see`."""
        self._seen.append(all_reduce_mean_(value.detach().clone()))

    @property
    def value(self) -> Tensor:
        """The mean without the batches of this step; 0 where the queue is empty."""
        return self.entries.sum(dim=0) / self.count.clamp(min=1)

    @property
    def moved(self) -> Tensor:
        """The mean with the batches of this step in it."""
        if not self._seen:
            return self.value
        return self._pushed().sum(dim=0) / (self.count + 1).clamp(max=len(self.entries))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Put the batches of the step in, as one entry, and let the oldest go."""
        if self._seen:
            self.entries.copy_(self._pushed())
            self.count.add_(1).clamp_(max=len(self.entries))
        self._seen = []

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []

    def _pushed(self) -> Tensor:
        return torch.cat([self.entries[1:], torch.stack(self._seen).mean(dim=0, keepdim=True).to(self.entries.dtype)])


class DistributionAlignment(StepState):
    r"""Scales probabilities so that, on average, the model predicts a wanted distribution of classes.

    .. math:: \tilde p = \mathrm{Normalise}\left(p \, t / a\right)

    with a the model's average prediction on unlabelled images, this step's included, and t the target. Source:
    ReMixMatch (Berthelot et al. 2020, section 3.1); CoMatch and SimMatch (``queue``, uniform); AdaMatch (Berthelot et
    al. 2022; ``predictions``).

    Args:
        target: The wanted distribution.

            - ``uniform``: every class as often.
            - ``labelled``: the classes as often as among the labelled images.
            - ``predictions``: the running mean of what the model predicts on labelled images, which starts uniform.
        decay: The decay of running means, in ``[0, 1)``; None is 0.999. With a queue only ``predictions`` has one.
        queue: Q, at least 1: the average is the mean of the last Q steps. None is a running mean over all.
        start: What the average starts at: ``first`` is the first batch (USB, CoMatch); ``uniform`` is ``1 / K``, in
            every entry of a queue (ReMixMatch, AdaMatch, TorchSSL).
        includes_batch: False aligns by the average of earlier steps alone, as the code of ReMixMatch does.
        epsilon: What is added to target and average, at least 0; the codes of ReMixMatch, AdaMatch and USB have 1e-6.

    Raises:
        UserError: A value is not legal, or an option is given where it has no effect.

    Example:
        >>> alignment = DistributionAlignment(target="uniform")
        >>> alignment.prepare(Problem(2, 8, 4, 10, (3, 32, 32), 100))
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> alignment.see(probs)
        >>> alignment(probs)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    fixed_target: Tensor

    def __init__(
        self,
        *,
        target: str = "uniform",
        decay: float | None = None,
        queue: int | None = None,
        start: str = "first",
        includes_batch: bool = True,
        epsilon: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("target", target, TARGETS)
        check_choice("start", start, STARTS)
        check_bool("includes_batch", includes_batch)
        check_number("epsilon", epsilon, low=0)
        if queue is not None:
            check_number("queue", queue, low=1, integer=True)
        if decay is not None:
            check_number("decay", decay, low=0, high=1, high_open=True)
            if queue is not None and target != "predictions":
                raise UserError(f"decay={decay} has no effect with queue={queue}: a queue has no decay, give null")
        if not includes_batch and start != "uniform":
            raise UserError("includes_batch=false needs start=uniform: there is no average before the first batch")
        self.target = target
        self.decay = DECAY if decay is None else decay
        self.queue = queue
        self.start = start
        self.includes_batch = includes_batch
        self.epsilon = epsilon
        self.average: RunningMean | QueueMean
        self.predicted: RunningMean

    @property
    def needs_labelled(self) -> bool:
        """Whether the predictions of labelled images must be shown."""
        return self.target == "predictions"

    def prepare(self, problem: Problem) -> None:
        """Make the averages for a problem. This is called once, before training.

        Args:
            problem: Gives the number of classes, and for ``labelled`` how often each is among the labelled images.

        Raises:
            UserError: The target needs label counts, and nobody gives them.
        """
        uniform = torch.full((problem.num_classes,), 1 / problem.num_classes)
        first = uniform if self.start == "uniform" else None
        if self.queue is not None:
            self.average = QueueMean(uniform, length=self.queue, start=first)
        else:
            self.average = (RunningFromFirst if first is None else RunningMean)(uniform, decay=self.decay)
        if self.target == "predictions":
            self.predicted = RunningMean(uniform, decay=self.decay)
        else:
            fixed = uniform if self.target == "uniform" else _shares(problem)
            self.register_buffer("fixed_target", fixed, persistent=False)

    @torch.no_grad()
    def see(self, probs: Tensor, probs_labelled: Tensor | None = None) -> None:
        """Take the predictions of one batch; before it is aligned.

        Args:
            probs: ``(N, K)``, the probabilities of unlabelled images, not aligned.
            probs_labelled: ``(B, K)``, those of labelled images; only ``predictions`` reads them.
        """
        self.average.see(probs.mean(dim=0))
        if self.needs_labelled and probs_labelled is not None:
            self.predicted.see(probs_labelled.mean(dim=0))

    @property
    def wanted(self) -> Tensor:
        """The target distribution ``(K,)`` as it stands, the batches of this step included."""
        return self.predicted.moved if self.needs_labelled else self.fixed_target

    @property
    def model_average(self) -> Tensor:
        """The average prediction ``(K,)`` that probabilities are divided by."""
        return self.average.moved if self.includes_batch else self.average.value

    def forward(self, probs: Tensor) -> Tensor:
        """Align probabilities; the averages do not move.

        Args:
            probs: ``(N, K)`` float probabilities.

        Returns:
            ``(N, K)``; rows sum to 1.
        """
        return align_distribution(probs, self.wanted, self.model_average, epsilon=self.epsilon)


def _shares(problem: Problem) -> Tensor:
    """Return how often each class is among the labelled images, ``(K,)``."""
    counts = torch.tensor(problem.label_counts, dtype=torch.float64)
    if len(counts) != problem.num_classes or counts.sum() <= 0:
        raise UserError("target=labelled needs the number of labelled images of each class: give Problem.label_counts")
    return (counts / counts.sum()).float()
