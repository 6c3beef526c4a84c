"""What a step tells a method, and what everything with state has to do at the end of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from layermatch.networks import Network

__all__ = ["Problem", "Record", "Step", "StepState"]


class Record(Protocol):
    """Takes quantities of one batch for the log; see :meth:`~layermatch.training.meter.IntervalMeter.add`."""

    def __call__(self, means: dict[str, Tensor], ratios: dict[str, tuple[Tensor, Tensor]] | None = None) -> None:
        """Take them."""
        ...


@dataclass(frozen=True)
class Problem:
    """What a method may know of the data and of the run before training.

    Args:
        num_classes: K.
        num_features: D, the width of the network's features.
        num_labelled: The number of labelled images.
        num_unlabelled: The number of images in the unlabelled pool; 0 where none are used.
        image_shape: ``(C, H, W)``.
        max_steps: The optimizer steps of the run.
        label_counts: The number of labelled images of each class, K of them; empty where nobody knows.
        pool_labels: ``(num_unlabelled,)`` int64, the class of each image of the unlabelled pool that is also a labelled
            one, and -1 for the others; None where no unlabelled images are used, and where they are streamed, but for
            methods with several stages.
    """

    num_classes: int
    num_features: int
    num_labelled: int
    num_unlabelled: int
    image_shape: tuple[int, int, int]
    max_steps: int
    label_counts: tuple[int, ...] = ()
    pool_labels: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """The step that a batch belongs to.

    Args:
        network: The live network.
        average: The network of averaged weights, in evaluation mode.
        number: The optimizer steps made before this one.
        max_steps: The optimizer steps of the run.
        record: Takes quantities for the log.
        watch: Takes a name and a tensor that must be finite, or the step is not applied.
        batches: The batches that make the step: those of all ranks and the accumulated ones.
    """

    network: Network
    average: Network
    number: int
    max_steps: int
    record: Record
    watch: Callable[[str, Tensor], None]
    batches: int = 1

    def must_be_finite(self, name: str, tensor: Tensor) -> None:
        """Have the step rejected where a tensor is not finite whose loss does not show it.

        A mask hides a weak view's output that is no number from the loss, but not from a running average.

        Args:
            name: What it is, for the message.
            tensor: Any shape, float.
        """
        self.watch(name, tensor.detach())

    @property
    def progress(self) -> float:
        """The share of the run that is done, in ``[0, 1)``."""
        return self.number / self.max_steps


class StepState(nn.Module):
    """A module whose state moves once per optimizer step.

    State lives in buffers, so that a checkpoint has it, and comes out the same on every rank. What a step's batches
    show is kept aside until the step is applied: a step that is not finite is forgotten whole, and accumulated batches
    count as one. The training module calls both methods on every such module that it finds in a method.
    """

    def after_step(self, step: Step) -> None:
        """Move the state by what the batches of this step showed; the optimizer has made its step.

        Args:
            step: The step that was applied; ``number`` counts those before it.
        """

    def discard_step(self) -> None:
        """Forget what the batches of this step showed: it is not applied."""
