"""What every pseudo-label policy gives and takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from layermatch.networks import Output
from layermatch.parts import Losses, Problem, StepState

__all__ = ["Policy", "Predictions", "PseudoLabels"]


class Predictions(NamedTuple):
    """What the network says of the images of a batch, without a gradient: what pseudo-labels are made from.

    Attributes:
        probs_weak: ``(N, K)`` float32, probabilities of the weak views of unlabelled images; where an average of
            outputs is asked for, that average.
        indices: ``(N,)`` int64, the positions of these images in the unlabelled pool.
        probs_labelled: ``(B, K)`` float32, probabilities of the labelled images; None where they are not sent through
            the network before pseudo-labels are made (``skip_masked``).
        label: ``(B,)`` int64, the labels of the labelled images; None where nobody gives them.
    """

    probs_weak: Tensor
    indices: Tensor
    probs_labelled: Tensor | None = None
    label: Tensor | None = None


class PseudoLabels(NamedTuple):
    """Targets of a batch of unlabelled samples, none of them with a gradient.

    Attributes:
        target: ``(N,)`` int64 class indices, or ``(N, K)`` float probabilities: what the losses compare with.
        weight: ``(N,)`` float32 in ``[0, 1]``: how much each sample counts (the mask).
        label: ``(N,)`` int64: the most probable class, for centres and diagnostics.
        confidence: ``(N,)`` float: its probability.
        margin: ``(K,)`` or ``(N, K)`` float: what is added to the strong views' logits in the loss; None is nothing.
    """

    target: Tensor
    weight: Tensor
    label: Tensor
    confidence: Tensor
    margin: Tensor | None = None

    def rows(self, rows: Tensor | slice) -> PseudoLabels:
        """Return the pseudo-labels of some of the images.

        Args:
            rows: Their positions in the batch.
        """
        margin = self.margin[rows] if self.margin is not None and self.margin.ndim == 2 else self.margin
        return PseudoLabels(self.target[rows], self.weight[rows], self.label[rows], self.confidence[rows], margin)


class Policy(StepState, ABC):
    """Decides which unlabelled samples count, with what target and weight."""

    #: Whether :attr:`Predictions.probs_labelled` must be there.
    needs_labelled: ClassVar[bool] = False

    #: Whether :meth:`losses` reads the strong views of images of weight 0.
    needs_masked: ClassVar[bool] = False

    #: Whether the probabilities are to be those of the averaged network; it costs one more forward of the weak views.
    needs_teacher: ClassVar[bool] = False

    def prepare(self, problem: Problem) -> None:
        """Make the state for a problem. This is called once, before training; by default there is none."""

    def thresholds(self) -> Tensor | None:
        """Return the confidence that a pseudo-label of each class needs now, ``(K,)``, for the log.

        By default it is None: a policy need not have thresholds.
        """
        return None

    @abstractmethod
    def forward(self, predictions: Predictions) -> PseudoLabels:
        """Return the pseudo-labels of the unlabelled images of a batch.

        Args:
            predictions: What the network says of the batch.
        """

    def losses(
        self,
        strong: Output,  # noqa: ARG002 -- for those that have some
        pseudo_labels: PseudoLabels,  # noqa: ARG002
        predictions: Predictions,  # noqa: ARG002
    ) -> Losses:
        """Return the losses of the policy's own, such as FreeMatch's fairness; by default none.

        A term that does not say what it reaches is of the strong logits, and reaches what the rule lets it reach.

        Args:
            strong: The outputs of the strong views, routed as the pseudo-label loss is: where that may not reach the
                classifier, the classifier is detached here too.
            pseudo_labels: The pseudo-labels of these ``N`` images.
            predictions: What they were made from.
        """
        return Losses()
