"""Which GPUs a job gets, where several jobs of a sweep or study run at once on a machine with several."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count as numbers
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["VISIBLE", "own_gpus", "visible_gpus"]

#: The variable that tells CUDA which GPUs a process sees.
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that this machine has for a process, as :data:`VISIBLE` has them.

    Args:
        environment: The variables of the process, which sees the GPUs that this one does.

    Example:
        >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"})
        []
    """
    import torch

    count = torch.cuda.device_count()
    if VISIBLE not in environment:
        return [str(number) for number in range(count)]
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    # As CUDA reads it: what follows a name that is none is hidden. Of a shell elsewhere there may be more than GPUs.
    return list(takewhile(_is_name, names))[:count]


def _is_name(name: str) -> bool:
    return name.isdecimal() or name.startswith(("GPU-", "MIG-"))


@contextmanager
def own_gpus(folder: Path, gpus: Sequence[str], *, count: int = 1) -> Iterator[dict[str, str]]:
    """Give the GPUs that the fewest jobs have, as long as the context lasts.

    Args:
        folder: A folder that the jobs share; a lock that the system frees when a process ends, however it ends, says
            which GPU has how many of them.
        gpus: The names of the GPUs.
        count: How many of them the job computes on.

    Returns:
        What the environment of the job needs; nothing where there is no choice.
    """
    if not 0 < count < len(gpus):
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        own: list[str] = []
        for _ in range(count):
            own.append(held.enter_context(_one_of(folder, [gpu for gpu in gpus if gpu not in own])))
        yield {VISIBLE: ",".join(sorted(own, key=gpus.index))}


@contextmanager
def _one_of(folder: Path, gpus: Sequence[str]) -> Iterator[str]:
    lock, gpu = _first_free(folder, gpus)
    try:
        yield gpu
    finally:
        lock.release()


def _first_free(folder: Path, gpus: Sequence[str]) -> tuple[FileLock, str]:
    for layer in numbers():
        for gpu in gpus:
            safe = "".join(letter if letter.isalnum() else "-" for letter in gpu)
            lock = FileLock(folder / f"gpu.{socket.gethostname()}.{safe}.{layer}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            return lock, gpu
    raise RuntimeError("no GPU is free")  # numbers has no end
