"""Clocks, and variants measured in turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import torch

__all__ = ["Stopwatch", "alternate", "peak_mib", "start_peak", "timed"]

T = TypeVar("T")


class Stopwatch:
    """Seconds between two points of a program; on a GPU between two CUDA events of its stream.

    The events wait for the host where the GPU does, so time that a GPU idles counts.

    Args:
        device: What computes.

    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> watch.start()
        >>> watch.stop() >= 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._begin = 0.0
        if self._on_gpu:
            event = partial(torch.cuda.Event, enable_timing=True)
            self._events = event(), event()

    def start(self) -> None:
        """Note the first point."""
        if self._on_gpu:
            torch.cuda.synchronize()  # what was asked for before does not count
            self._events[0].record()
        self._begin = time.perf_counter()

    def stop(self) -> float:
        """Return the seconds since :meth:`start`, when everything asked for since then is done."""
        if not self._on_gpu:
            return time.perf_counter() - self._begin
        self._events[1].record()
        self._events[1].synchronize()
        milliseconds: float = self._events[0].elapsed_time(self._events[1])
        return milliseconds / 1000


def timed(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Return a function that does ``work`` once and returns the seconds it took.

    Args:
        work: What to measure.
        device: What computes.
    """

    def run() -> float:
        watch = Stopwatch(device)
        watch.start()
        work()
        return watch.stop()

    return run


def alternate(variants: Mapping[str, Callable[[], T]], *, rounds: int, warmups: int = 0) -> dict[str, list[T]]:
    """Measure variants in turn, so that a change of the machine's load meets all of them.

    Every second round goes backwards: none of them always comes first.

    Args:
        variants: The functions by name; each measures once and returns what it measured.
        rounds: The number of measurements of each variant, at least 1.
        warmups: The number of rounds before them that do not count.

    Returns:
        The measurements of each variant.

    Example:
        >>> alternate({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=2)
        {'a': [1.0, 1.0], 'b': [2.0, 2.0]}
    """
    measured: dict[str, list[T]] = {name: [] for name in variants}
    for number in range(-warmups, rounds):
        for name in list(variants) if number % 2 == 0 else reversed(list(variants)):
            measurement = variants[name]()
            if number >= 0:
                measured[name].append(measurement)
    return measured


def start_peak(device: torch.device) -> int:
    """Start to watch the GPU's memory; returns the bytes in use now (0 without a GPU)."""
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_mib(device: torch.device, before: int) -> float:
    """Return the most MiB of the GPU's memory in use since :func:`start_peak`, above what was in use then.

    Args:
        device: What computes; without a GPU the answer is 0.
        before: What :func:`start_peak` returned.
    """
    return 0.0 if device.type != "cuda" else (torch.cuda.max_memory_allocated() - before) / 2**20
