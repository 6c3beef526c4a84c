"""What a method is: the views it asks for, the heads it adds, and the losses of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from layermatch.data.batch import Batch, Unlabelled, Views
from layermatch.errors import UserError
from layermatch.layerwise import GradientRule, LayerwiseRule
from layermatch.networks import CLASSIFIER, Network, Output
from layermatch.parts import Losses, Pool, Problem, Stage, Step, StepState
from layermatch.parts.stages import stage_at

__all__ = ["Method", "RoutedMethod", "unlabelled_of"]


class Method(StepState, ABC):
    """One algorithm, as its paper's box has it: no optimizer, no logger and no Lightning.

    What is kept from step to step is in parts that are :class:`~layermatch.parts.StepState` modules, or in the method,
    which is one itself. Random numbers may be drawn from torch's own generators: they are those of (seed, batch, rank).
    """

    #: The views that the method asks for.
    views: ClassVar[Views] = Views()

    #: The rule that takes gradients apart where the method asks for it; None is one backward pass.
    gradient_rule: GradientRule | None = None

    #: The stages of a run, the first from its start on; most methods have one.
    stages: tuple[Stage, ...] = (Stage(),)

    #: The setting by which the method changes images itself, as by turning them; empty where it learns from features of
    #: images as well.
    changes_images: str = ""

    #: Whether the classifier is computed after the last step from all labelled images; see :meth:`solve`.
    solves: ClassVar[bool] = False

    def heads(self, problem: Problem) -> dict[str, nn.Module]:  # noqa: ARG002 -- for those that have some
        """Return the heads that the method needs beside the classifier, by name; by default none."""
        return {}

    def prepare(self, network: Network, problem: Problem) -> None:
        """Make the state for this network and problem. This is called once, before training.

        Args:
            network: The network that will be trained, with its heads.
            problem: What is known of the data and of the run.

        Raises:
            UserError: The method cannot learn from them.
        """

    def stage_of(self, step: Step) -> int:
        """Find the stage that a step belongs to, its position in :attr:`stages`: a pure function of the step's number.

        Args:
            step: The step.
        """
        return stage_at(self.stages, step.progress)

    def begin_stage(self, stage: int, predict: Pool) -> None:
        """Make ready for a stage, before its first step. A run that goes on within the stage does not repeat it.

        Args:
            stage: The position of the stage in :attr:`stages`.
            predict: Gives, where it is called, the live network's logits for every image of the unlabelled pool,
                ``(num_unlabelled, K)`` in the order of the pool, in evaluation mode and without augmentation; and shows
                the images themselves, see :class:`~layermatch.parts.Pool`. All ranks must call it together, and get the
                same.
        """

    @abstractmethod
    def losses(self, batch: Batch, step: Step) -> Losses:
        """Return the losses of one batch, with their graph: the algorithm box.

        Args:
            batch: The views of labelled and unlabelled images.
            step: The step that the batch belongs to.
        """

    def outputs(self, network: Network, images: Tensor) -> Output:
        """Return what is evaluated, predicted and exported: features, and ``(B, K)`` logits.

        Args:
            network: The live network or its average.
            images: ``(B, C, H, W)``, normalised.
        """
        out: Output = network(images, heads=(CLASSIFIER,))
        return out

    @property
    def evaluated_head(self) -> str | None:
        """The head whose logits :meth:`outputs` gives; None where a method computes them in a way of its own."""
        return CLASSIFIER if type(self).outputs is Method.outputs else None

    def solve(self, features: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Return the classifier of a method that :attr:`solves`, weight ``(K, D)`` and bias ``(K,)``.

        Args:
            features: ``(N, D)`` float32, those of all labelled images, not augmented, in their order; on the CPU.
            label: ``(N,)`` int64, on the CPU.
            num_classes: K.
        """
        raise NotImplementedError(f"{type(self).__name__} solves, and has no solve()")

    def diagnose(self, losses: Losses) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ARG002 -- for those that have some
        """Return the ratios for the log that need gradients of their own, asked for where ``layers/*`` are measured.

        Args:
            losses: The losses of one batch, with their graph, which is kept.
        """
        return {}

    def readings(self) -> dict[str, Tensor]:
        """Say what the state is at a log line, by the name it is logged with: scalars, or ``(K,)`` for each class."""
        return {}

    def centres(self, network: Network) -> Tensor:
        """Return the cluster centres whose movement is logged, ``(K, D)``: here the classifier's rows."""
        return network.classifier.weight


class RoutedMethod(Method):
    """A method whose losses on unlabelled images go where a layer-wise rule lets them.

    It sends outputs through :meth:`~layermatch.layerwise.LayerwiseRule.route`, weighs its loss by ``rule.lambda_u``,
    and names ``rule.reached`` in its terms. Its targets need not be pseudo-labels of single images, so the rule may
    have no losses of its own.

    Args:
        rule: The rule that routes the losses, ``Uniform()`` or Grad-ReLU; its ``lambda_u`` is the weight of the loss on
            unlabelled images.

    Raises:
        UserError: The rule has losses of its own.
    """

    def __init__(self, *, rule: LayerwiseRule) -> None:
        super().__init__()
        rule.check_routes_only(type(self).__name__)
        self.rule = rule

    @property
    def gradient_rule(self) -> GradientRule | None:  # type: ignore[override]
        """The gradient rule of the layer rule; see :class:`Method`."""
        return self.rule.gradient_rule


def unlabelled_of(batch: Batch) -> Unlabelled:
    """Return the unlabelled images of a batch.

    Raises:
        UserError: There are none.
    """
    if batch.unlabelled is None:
        raise UserError("this method needs unlabelled images, and the batch has none")
    return batch.unlabelled
