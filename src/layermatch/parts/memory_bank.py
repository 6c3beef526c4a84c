"""Banks of embeddings of images that the network has seen."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from layermatch.distributed import all_gather_rows
from layermatch.errors import check_number
from layermatch.functional import ema, product_float32
from layermatch.parts.step import Problem, Step, StepState

__all__ = ["Bank", "LabelledBank", "MemoryBank"]


class Bank(StepState, ABC):
    """Embeddings of images, the same on every rank, which take in each step's images when it is applied.

    Args:
        rows: The number of embeddings, at least 1.
        width: The width of an embedding, at least 1.
    """

    keys: Tensor

    def __init__(self, *, rows: int, width: int) -> None:
        super().__init__()
        check_number("rows", rows, low=1, integer=True)
        check_number("width", width, low=1, integer=True)
        #: What the batches of the step showed, of all ranks.
        self._seen: list[tuple[Tensor, ...]] = []

    @property
    @abstractmethod
    def is_full(self) -> Tensor:
        """Whether every row has been written, a bool scalar on the bank's device."""

    def is_ready(self, step: Step, first: int | None) -> Tensor:
        """Return whether the bank is used in a step, a bool scalar on its device.

        Args:
            step: The step.
            first: The number of the first step that uses it; None waits until the bank is full.
        """
        return self.is_full if first is None else torch.full_like(self.is_full, step.number >= first)

    @torch.no_grad()
    def _take(self, *parts: Tensor) -> None:
        """Keep what a batch shows, of all ranks, until the step is applied."""
        self._seen.append(tuple(all_gather_rows(part.detach()) for part in parts))

    def _taken(self) -> list[Tensor]:
        """Return what the batches of the step showed together, which is forgotten."""
        parts = [torch.cat(part) for part in zip(*self._seen, strict=True)]
        self._seen = []
        return parts

    def discard_step(self) -> None:
        """Forget the images of the step."""
        self._seen = []


class MemoryBank(Bank):
    r"""A ring of the embeddings and class probabilities of the last images, in the order that they came.

    A row that is not written yet is 0. The images of a step go in when it is applied; a step with more images than rows
    leaves its last ones. Under DDP the images of a call of :meth:`see` are those of all ranks, in rank order.

    Source: CoMatch (Li et al. 2021, section 3.2).

    NOTE: USB drops the images of a batch that reach beyond the end of its bank; the authors' code needs a bank that
    whole batches fill. Here they go on at its start.

    Args:
        rows: The number of rows, at least 1; at most as many as there are images.
        width: The width of an embedding, at least 1.
        problem: Gives the number of classes and of images.

    Raises:
        UserError: A number is out of its range.

    Example:
        >>> bank = MemoryBank(rows=4, width=2, problem=Problem(3, 8, 6, 10, (3, 32, 32), 100))
        >>> bank.see(torch.eye(2), torch.eye(3)[:2])
        >>> bank.num_written, bank.keys.shape, bank.probs.shape
        (tensor(0), torch.Size([4, 2]), torch.Size([4, 3]))
    """

    probs: Tensor
    num_written: Tensor

    def __init__(self, *, rows: int, width: int, problem: Problem) -> None:
        super().__init__(rows=rows, width=width)
        rows = min(rows, max(problem.num_labelled + problem.num_unlabelled, 1))
        self.register_buffer("keys", torch.zeros(rows, width))
        self.register_buffer("probs", torch.zeros(rows, problem.num_classes))
        self.register_buffer("num_written", torch.zeros((), dtype=torch.int64))

    @property
    def is_full(self) -> Tensor:
        """Whether every row has been written; see :class:`Bank`."""
        return self.num_written >= len(self.keys)

    def see(self, keys: Tensor, probs: Tensor) -> None:
        """Take the images of one batch.

        Args:
            keys: ``(N, D)`` embeddings; every rank must have the same number.
            probs: ``(N, K)`` class probabilities.
        """
        self._take(keys, probs)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Write the images of the step over the oldest ones."""
        keys, probs = self._taken()
        size = len(self.keys)
        # Tensors throughout: a Python position would have to wait for the GPU.
        rows = (self.num_written + torch.arange(len(keys), device=keys.device)) % size
        self.keys[rows[-size:]] = keys[-size:].to(self.keys)
        self.probs[rows[-size:]] = probs[-size:].to(self.probs)
        self.num_written += len(keys)


class LabelledBank(Bank):
    r"""One embedding for each labelled image, and its label.

    .. math:: k_i \leftarrow \frac{\beta k_i + (1 - \beta) k}{\|\beta k_i + (1 - \beta) k\|}

    for the labelled images i of a step, when it is applied. An image that is there more than once counts once, with the
    mean of its embeddings. Embeddings start at random, and labels at 0, until their image is seen.

    Source: SimMatch (Zheng et al. 2022, section 3.4).

    NOTE: USB scales the rows of each feature to length 1 instead of each embedding.

    Args:
        width: The width of an embedding, at least 1.
        problem: Gives the number of labelled images.
        decay: ``beta``, in ``[0, 1)``; 0 replaces the embeddings.

    Raises:
        UserError: A number is out of its range.

    Example:
        >>> bank = LabelledBank(width=2, problem=Problem(3, 8, 6, 10, (3, 32, 32), 100), decay=0.7)
        >>> bank.see(torch.eye(2), label=torch.tensor([2, 0]), indices=torch.tensor([5, 1]))
        >>> bank.keys.shape, bank.is_full
        (torch.Size([6, 2]), tensor(False))
    """

    label: Tensor
    is_known: Tensor

    def __init__(self, *, width: int, problem: Problem, decay: float = 0.7) -> None:
        rows = problem.num_labelled
        super().__init__(rows=rows, width=width)
        check_number("decay", decay, low=0, high=1, high_open=True)
        self.decay = decay
        self.register_buffer("keys", F.normalize(torch.randn(rows, width), dim=1))
        self.register_buffer("label", torch.zeros(rows, dtype=torch.int64))
        self.register_buffer("is_known", torch.zeros(rows, dtype=torch.bool))

    @property
    def is_full(self) -> Tensor:
        """Whether every labelled image has been seen; see :class:`Bank`."""
        return self.is_known.all()

    def see(self, keys: Tensor, *, label: Tensor, indices: Tensor) -> None:
        """Take the labelled images of one batch.

        Args:
            keys: ``(B, D)`` embeddings of length 1; every rank must have the same number.
            label: ``(B,)`` int64.
            indices: ``(B,)`` int64, their positions in the labelled set.
        """
        self._take(keys, label, indices)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:  # noqa: ARG002 -- see StepState
        """Move the embeddings of the images that the step had."""
        keys, label, indices = self._taken()
        rows, position = torch.unique(indices, return_inverse=True)
        # A matrix product rather than index_add: its order of additions is fixed on CUDA too, so ranks stay the same.
        membership = F.one_hot(position, len(rows)).to(self.keys)  # (B, rows)
        mean = product_float32(membership.T, keys.to(self.keys)) / membership.sum(dim=0)[:, None]
        self.keys[rows] = F.normalize(ema(self.keys[rows], mean, self.decay), dim=1)
        self.label[indices] = label
        self.is_known[rows] = True
