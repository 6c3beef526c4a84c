"""Which GPU a job gets, where several jobs of a sweep run at once on a machine with several."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["VISIBLE", "own_gpu", "visible_gpus"]

#: The variable that tells CUDA which GPUs a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that a process of an environment sees, as :data:`VISIBLE` has them.

    Args:
        environment: The variables of the process.

    Example:
        >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"})
        ['2', '3']
    """
    if VISIBLE in environment:
        return [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def own_gpu(folder: Path, gpus: Sequence[str]) -> Iterator[dict[str, str]]:
    """Give the GPU that the fewest jobs have, as long as the context lasts.

    Args:
        folder: A folder that the jobs share; a lock that the system frees when a process ends, however it ends, says
            which GPU has how many of them.
        gpus: The names of the GPUs.

    Returns:
        What the environment of the job needs; nothing where there is no choice.
    """
    if len(gpus) < 2:
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock, gpu = _first_free(folder, gpus)
    try:
        yield {VISIBLE: gpu}
    finally:
        lock.release()


def _first_free(folder: Path, gpus: Sequence[str]) -> tuple[FileLock, str]:
    for layer in count():
        for gpu in gpus:
            safe = "".join(letter if letter.isalnum() else "-" for letter in gpu)
            lock = FileLock(folder / f"gpu.{socket.gethostname()}.{safe}.{layer}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            return lock, gpu
    raise RuntimeError("no GPU is free")  # count has no end
