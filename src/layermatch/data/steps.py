"""Random access to raw training and evaluation batches: ``steps[1234]`` is the batch of step 1234."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from layermatch.data.blocks import BlockOrder, blocks_of
from layermatch.data.ramp import BatchSizes, Ramp
from layermatch.data.sources import ImageSet
from layermatch.functional.streams import shuffled_positions, uniforms

__all__ = ["EvalSteps", "EveryBatch", "RawBatch", "RawEvalBatch", "StepsFrom", "TrainingSteps", "ViewedSet"]

# Streams of one seed; each is independent of the others. The order of a set has the stream itself, its views have those
# after it: nine views at most.
_LABELLED, _UNLABELLED = 10, 20


class ViewedSet(NamedTuple):
    """Raw images and the random numbers of their views, of the labelled or the unlabelled part of a batch.

    Attributes:
        images: ``(N, C, H, W)`` uint8; ``(0, C, H, W)`` where the device has them, see
            :class:`~layermatch.data.device_pool.DevicePool`.
        label: ``(N,)`` int64, -1 where unknown.
        indices: ``(N,)`` int64, positions in the set.
        draws: The random numbers of each view, ``(N, D)`` float32 in ``[0, 1)``.
    """

    images: Tensor
    label: Tensor
    indices: Tensor
    draws: tuple[Tensor, ...]


class RawBatch(NamedTuple):
    """What a training step reads: small uint8 images; views are made on the device.

    Attributes:
        labelled: The labelled images.
        unlabelled: The unlabelled ones; None for methods that use none.
        size: The height and width that images are reduced to before their views are made; None leaves them.
    """

    labelled: ViewedSet
    unlabelled: ViewedSet | None
    size: tuple[int, int] | None = None


class RawEvalBatch(NamedTuple):
    """What an evaluation step reads.

    Attributes:
        images: ``(B, C, H, W)`` uint8.
        label: ``(B,)`` int64.
        indices: ``(B,)`` int64.
    """

    images: Tensor
    label: Tensor
    indices: Tensor


class TrainingSteps(Dataset[RawBatch]):
    """The batches of one rank: a pure function of (seed, step, rank).

    All ranks together walk through one endless shuffle of the set: step ``s`` of rank ``r`` of ``R`` takes positions
    ``(s R + r) B`` to ``(s R + r + 1) B``. Views draw their random numbers by the same positions, so ``R`` ranks with
    ``B / R`` images each see what one rank with ``B`` sees. With a ramp, ``B`` is that of the step, and the images of
    the steps before it take the place of ``s B``. A set in blocks is shuffled block by block, see
    :class:`~layermatch.data.blocks.BlockOrder`.

    Args:
        labelled: The labelled images.
        unlabelled: The unlabelled pool, or None.
        batch_size: The labelled images per rank and step, ``B``.
        mu: The unlabelled images per labelled one.
        seed: The seed of the run.
        rank: The rank of this process.
        world_size: The number of processes, ``R``.
        draws: Random numbers per sample for each view of (labelled, unlabelled) images.
        read_images: False leaves the images out: the device has them.
        ramp: What the first batches are; None is whole ones.
        num_batches: The batches of the run, which the ramp is of.
    """

    def __init__(
        self,
        labelled: ImageSet,
        unlabelled: ImageSet | None,
        *,
        batch_size: int,
        mu: int,
        seed: int,
        rank: int,
        world_size: int,
        draws: tuple[Sequence[int], Sequence[int]],
        read_images: bool = True,
        ramp: Ramp | None = None,
        num_batches: int | None = None,
    ) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.sizes = BatchSizes(batch_size, mu, ramp or Ramp(), num_batches)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.draws = draws
        self.read_images = read_images
        self._orders = {
            stream: BlockOrder(blocks, seed=seed, stream=stream)
            for stream, images in ((_LABELLED, labelled), (_UNLABELLED, unlabelled))
            if images is not None and (blocks := blocks_of(images.images)) is not None
        }

    def __getitem__(self, step: int) -> RawBatch:
        """Return the batch of one step of this rank."""
        of_labelled, of_unlabelled = self.draws
        (num_labelled, num_unlabelled), before = self.sizes.of(step), self.sizes.images_before(step)
        size = self.sizes.image_size(step, self.labelled.images.shape)
        starts = [
            one_rank * self.world_size + self.rank * count
            for one_rank, count in zip(before, (num_labelled, num_unlabelled), strict=True)
        ]
        labelled = self._read(self.labelled, starts[0], num_labelled, _LABELLED, of_labelled)
        if self.unlabelled is None:
            return RawBatch(labelled, None, size)
        unlabelled = self._read(self.unlabelled, starts[1], num_unlabelled, _UNLABELLED, of_unlabelled)
        return RawBatch(labelled, unlabelled, size)

    def _read(self, images: ImageSet, start: int, size: int, stream: int, widths: Sequence[int]) -> ViewedSet:
        if stream in self._orders:
            index = self._orders[stream].positions(start=start, count=size)
        else:
            index = shuffled_positions(seed=self.seed, stream=stream, start=start, count=size, size=len(images))
        draws = tuple(
            torch.from_numpy(uniforms(seed=self.seed, stream=stream + 1 + v, start=start, count=size, width=width))
            for v, width in enumerate(widths)
        )
        return ViewedSet(*_read(images, index, read_images=self.read_images), draws)


class EvalSteps(Dataset[RawEvalBatch]):
    """Every ``world_size``-th image, in batches: over all ranks each image counts once, without padding.

    A rank that is beyond a small set has one batch without images: it evaluates nothing, but takes its part in the
    exchanges that follow, without which the others would wait for it.

    Args:
        images: The set of images.
        batch_size: The images per rank and batch; they may differ by one.
        rank: The rank of this process.
        world_size: The number of processes.
    """

    def __init__(self, images: ImageSet, *, batch_size: int, rank: int, world_size: int) -> None:
        self.images = images
        if blocks_of(images.images) is not None:  # those of a batch lie together
            first, last = (len(images) * number // world_size for number in (rank, rank + 1))
            starts = range(first, last, batch_size) or [first]
            self.batches = [np.arange(start, min(start + batch_size, last)) for start in starts]
            return
        index = np.arange(rank, len(images), world_size)
        num_batches = max(-(-len(index) // batch_size), 1)
        # Spread over the set, which may be sorted by class: a few batches then stand for the whole.
        self.batches = [index[start::num_batches] for start in range(num_batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> RawEvalBatch:
        """Return one batch."""
        return RawEvalBatch(*_read(self.images, self.batches[batch]))


class StepsFrom(DistributedSampler[int]):
    """Steps ``first, first + 1, ...`` without end; the trainer's ``max_steps`` ends the run.

    It is a distributed sampler in that each step holds the images of one rank already: Lightning then leaves it alone,
    where it would deal the steps out once more.

    Args:
        first: The first step.
        stand_still: Whether to give step 0 over and over, for debugging.
    """

    def __init__(self, first: int, *, stand_still: bool = False) -> None:
        self.first = first
        self.stand_still = stand_still

    def __iter__(self) -> Iterator[int]:
        return repeat(0) if self.stand_still else count(self.first)

    def __len__(self) -> int:
        raise TypeError("the steps have no end")

    def set_epoch(self, epoch: int) -> None:
        """Nothing follows from an epoch."""


class EveryBatch(DistributedSampler[int]):
    """The batches of one rank, in order; see :class:`StepsFrom`.

    Args:
        count: The number of batches.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Nothing follows from an epoch."""


def _read(images: ImageSet, index: NDArray[np.int64], *, read_images: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    pixels = torch.from_numpy(images.images.read(index if read_images else index[:0]))
    return pixels, torch.from_numpy(images.labels[index]), torch.from_numpy(index)
