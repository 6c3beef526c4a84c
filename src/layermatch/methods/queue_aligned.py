"""Methods of the FixMatch family that align their predictions before anything else reads them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from layermatch.data.batch import Batch
from layermatch.errors import check_number
from layermatch.methods.pseudo_labelling import BatchOutputs, PseudoLabelling
from layermatch.networks import Network, Output
from layermatch.parts import DistributionAlignment, Losses, Problem, Step
from layermatch.policies import Predictions

__all__ = ["QueueAligned"]


class QueueAligned(PseudoLabelling):
    r"""A method whose weak views' probabilities are scaled so that all classes are predicted as often.

    .. math:: p \leftarrow \mathrm{Normalise}(p / a)

    with a the mean prediction of the last steps, this one included. It is what CoMatch, SimMatch and ShrinkMatch have
    in common; they go on with the aligned probabilities before the policy sees them.

    Args:
        alignment_queue: The number of steps that the mean is over, at least 1; None does not align.
        **options: Those of :class:`~layermatch.methods.PseudoLabelling`.

    Raises:
        UserError: A value is not legal.
    """

    needs_masked: ClassVar[bool] = True

    def __init__(self, *, alignment_queue: int | None = 32, **options: Any) -> None:
        super().__init__(**options)
        self.alignment: DistributionAlignment | None = None
        if alignment_queue is not None:
            check_number("alignment_queue", alignment_queue, low=1, integer=True)
            self.alignment = DistributionAlignment(target="uniform", queue=alignment_queue)

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the alignment's queue beside the state of policy and rule; see :class:`Method`."""
        super().prepare(network, problem)
        if self.alignment is not None:
            self.alignment.prepare(problem)

    def make_predictions(self, weak: Output, labelled: Output | None, batch: Batch, step: Step) -> Predictions:
        """Return the aligned predictions; see :class:`PseudoLabelling`."""
        predictions = super().make_predictions(weak, labelled, batch, step)
        if self.alignment is None:
            return predictions
        self.alignment.see(predictions.probs_weak)
        return predictions._replace(probs_weak=self.alignment(predictions.probs_weak))

    @abstractmethod
    def more_losses(self, seen: BatchOutputs, step: Step) -> Losses:
        """Return what the method adds to FixMatch; see :class:`PseudoLabelling`."""
