"""The training images on the training device, and whether they fit there."""

from __future__ import annotations

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich import filesize
from torch import Tensor

from layermatch.data.images import Images, chunks_of
from layermatch.data.steps import RawBatch, ViewedSet
from layermatch.errors import UserError

__all__ = ["DevicePool", "check_device_fits", "free_memory"]


class DevicePool:
    """The training images on the training device, as one uint8 tensor; batches are picked there.

    Args:
        pool: The images that training batches are made of.
        labelled_rows: ``(L,)`` int64, the position in the pool of each labelled image.
        device: The device to keep them on.

    Raises:
        UserError: The device has not enough free memory.

    Example:
        >>> from layermatch.data.images import ArrayImages
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> pool = DevicePool(images, labelled_rows=np.array([2]), device=torch.device("cpu"))
        >>> pool.images.flatten().tolist()
        [0, 1, 2, 3]
    """

    def __init__(self, pool: Images, *, labelled_rows: NDArray[np.int64], device: torch.device) -> None:
        check_device_fits(len(pool), pool.shape, device)
        self.device = device
        self.images = torch.empty((len(pool), *pool.shape), dtype=torch.uint8, device=device)
        self.labelled_rows = torch.from_numpy(labelled_rows).to(device)
        for rows in chunks_of(pool):
            self.images[rows[0] : rows[-1] + 1] = torch.from_numpy(pool.read(rows))

    def fill(self, raw: RawBatch) -> RawBatch:
        """Put the images into a batch that holds only their positions.

        Args:
            raw: A raw batch, on the device of the pool.
        """
        labelled = self._pick(raw.labelled, self.labelled_rows[raw.labelled.indices])
        unlabelled = raw.unlabelled
        unlabelled = None if unlabelled is None else self._pick(unlabelled, unlabelled.indices)
        return RawBatch(labelled, unlabelled, raw.size)

    def _pick(self, part: ViewedSet, rows: Tensor) -> ViewedSet:
        return part._replace(images=self.images[rows])


def check_device_fits(count: int, shape: tuple[int, int, int], device: torch.device) -> None:
    """Refuse a pool that is larger than the free memory of a device.

    Args:
        count: The number of images.
        shape: The shape ``(C, H, W)`` of each image.
        device: The device on which they are to be kept.

    Raises:
        UserError: They do not fit; says what is needed, what is free, and what to use.

    Example:
        >>> check_device_fits(10**9, (3, 96, 96), torch.device("cpu"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: storage=device needs 27.6 TB for 1,000,000,000 images, but cpu has ...
    """
    needed, free = count * int(np.prod(shape, dtype=np.int64)), free_memory(device)
    if needed > free:
        host = torch.device("cpu")
        better = "ram" if device.type != "cpu" and needed <= free_memory(host) else "disk"
        raise UserError(
            f"storage=device needs {filesize.decimal(needed)} for {count:,} images, but {device} has "
            f"{filesize.decimal(free)} free: give storage={better}"
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be used on a device; of the CPU what the system can make free without swapping.

    Args:
        device: A CPU, CUDA or MPS device.

    Example:
        >>> free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)
