"""Collectives that do nothing when there is one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

__all__ = [
    "all_gather_rows",
    "all_gather_uneven_rows",
    "all_reduce_mean_",
    "all_reduce_sum_",
    "broadcast_from_zero_",
    "is_rank_zero",
    "leave_processes",
    "rank",
    "world_size",
]


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def leave_processes() -> None:
    """End the exchange with the other processes; all must do so together."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_rank_zero() -> bool:
    """Return whether this process is the one that writes; known before the processes have met."""
    return getattr(rank_zero_only, "rank", 0) == 0


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Sum over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_mean_(tensor: Tensor) -> Tensor:
    """Return the mean over all ranks, in place."""
    return all_reduce_sum_(tensor).div_(world_size())


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Return the rows of every rank, in rank order; every rank must have the same number.

    Args:
        tensor: ``(N, ...)`` on each rank.

    Returns:
        ``(world_size * N, ...)``.
    """
    if world_size() == 1:
        return tensor
    rows = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(rows, tensor.contiguous())
    return torch.cat(rows)


def all_gather_uneven_rows(tensor: Tensor) -> Tensor:
    """Gather the rows of every rank, as :func:`all_gather_rows` does, where ranks may have different numbers of them.

    Args:
        tensor: ``(N, ...)`` on each rank, with an ``N`` of its own.

    Returns:
        The rows of every rank, in rank order.
    """
    return torch.cat(gather_all_tensors(tensor)) if world_size() > 1 else tensor


def broadcast_from_zero_(tensors: Sequence[Tensor]) -> None:
    """Give every rank the values of rank 0, in place: one message for all tensors of a dtype.

    Args:
        tensors: The tensors, in an order that all ranks have.
    """
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        message = torch.cat([tensor.detach().flatten() for tensor in alike])
        dist.broadcast(message, src=0)
        for tensor, part in zip(alike, torch.split(message, [tensor.numel() for tensor in alike]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))
