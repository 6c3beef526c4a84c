"""A label of every image of the pool, learnt with the network."""

from __future__ import annotations

import torch
from torch import Tensor

from layermatch.distributed import all_gather_rows
from layermatch.errors import check_number
from layermatch.parts.step import Step, StepState

__all__ = ["LabelTable", "fixed_logits"]

#: The logit of the true class of a labelled image; the others are 0. Source: the code of R2-D2.
FIXED = 10.0


def fixed_logits(label: Tensor, num_classes: int) -> Tensor:
    """Return the label logits of labelled images, which are never moved: 10 on the class, 0 elsewhere.

    Args:
        label: ``(B,)`` int64.
        num_classes: K.

    Returns:
        ``(B, K)`` float32.

    Example:
        >>> fixed_logits(torch.tensor([1]), 3)
        tensor([[ 0., 10.,  0.]])
    """
    return FIXED * torch.nn.functional.one_hot(label, num_classes).float()


class LabelTable(StepState):
    r"""Logits of a label for every image of the pool, which move down the gradient of the loss once a step.

    .. math:: \tilde y \leftarrow \tilde y - \lambda \, \frac{\partial L}{\partial \tilde y}

    with L the loss of the whole optimizer step: the mean over its batches and over all ranks. The rows of labelled
    images stay as they are. Every rank holds the same table. It takes ``4 N K`` bytes.

    Source: R2-D2 (Wang and Wu 2020).

    Args:
        pool_labels: ``(N,)`` int64, the class of the images that are labelled and -1 for the others.
        num_classes: K.
        rate: lambda, at least 0.

    Raises:
        UserError: The rate is out of range.

    Example:
        >>> table = LabelTable(torch.tensor([-1, 2]), num_classes=3, rate=1.0)
        >>> table.assign(torch.ones(2, 3))
        >>> table.logits
        tensor([[ 1.,  1.,  1.],
                [ 0.,  0., 10.]])
    """

    logits: Tensor
    is_fixed: Tensor

    def __init__(self, pool_labels: Tensor, *, num_classes: int, rate: float) -> None:
        super().__init__()
        check_number("rate", rate, low=0)
        self.rate = rate
        self.register_buffer("is_fixed", pool_labels >= 0, persistent=False)
        logits = fixed_logits(pool_labels.clamp(min=0), num_classes) * self.is_fixed[:, None]
        self.register_buffer("logits", logits)
        #: The images of each batch of the step, and the gradients of the batch's loss by their logits.
        self._seen: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def assign(self, logits: Tensor) -> None:
        """Set the rows of all images that are not labelled.

        Args:
            logits: ``(N, K)``.
        """
        self.logits.copy_(torch.where(self.is_fixed[:, None], self.logits, logits.to(self.logits)))

    @torch.no_grad()
    def see(self, indices: Tensor, gradient: Tensor) -> None:
        """Take the gradient of one batch's loss.

        Args:
            indices: ``(M,)`` int64, the positions of its images in the pool; one may be there twice.
            gradient: ``(M, K)``.
        """
        self._seen.append((indices, gradient.to(self.logits)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Move the rows of the images that the step's batches had."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        indices, gradient = (all_gather_rows(torch.cat(parts)) for parts in zip(*seen, strict=True))
        change = torch.where(self.is_fixed[indices, None], 0.0, -self.rate / step.batches * gradient)
        # Not index_add: the order of its additions is not fixed on CUDA, and ranks would differ.
        self.logits.index_put_((indices,), change, accumulate=True)

    def discard_step(self) -> None:
        """Forget the batches of the step."""
        self._seen = []
