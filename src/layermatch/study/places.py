"""How many runs of a study go on at once, and which GPU each has."""

from __future__ import annotations

import os
from collections.abc import Sequence

from layermatch.study.design import Cell

__all__ = ["gpus_of", "jobs_for"]


def gpus_of(cell: Cell, gpus: Sequence[str]) -> int:
    """Return how many GPUs of this machine a run computes on.

    Args:
        cell: The run.
        gpus: The GPUs of this machine.
    """
    trainer = cell.raw["trainer"]
    return int(trainer["devices"]) if gpus and trainer["accelerator"] != "cpu" else 0


def jobs_for(cells: Sequence[Cell], *, gpus: Sequence[str]) -> int:
    """Return how many runs go on at once where nobody says it: one on each GPU, or on each core where none is used.

    Args:
        cells: All runs of the study.
        gpus: The GPUs of this machine.
    """
    on_gpus = max((gpus_of(cell, gpus) for cell in cells), default=0)
    if on_gpus:
        return max(1, len(gpus) // on_gpus)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
