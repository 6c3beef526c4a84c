"""The stages of a run: where each begins, and what it makes of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layermatch.errors import UserError

__all__ = ["Stage", "check_stages", "rate_at", "stage_at"]


@dataclass(frozen=True)
class Stage:
    r"""A part of a run, from its start to that of the next stage or to the end.

    Within it the learning rate of the schedule is multiplied by

    .. math:: \rho \, \frac{1 + \cos(\pi c q)}{2}

    with q the share of the stage that is done.

    Args:
        start: The share of the run at which it begins, in ``[0, 1]``: its first step is the first one whose share of
            the run reaches it. A stage without a step, as one that starts at 1 is, never begins.
        rate: rho, at least 0.
        cosine: c, in ``[0, 1]``: 1 lets the learning rate fall to 0 by half a cosine, 0 leaves it as it is.
    """

    start: float = 0.0
    rate: float = 1.0
    cosine: float = 0.0


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse stages that do not follow each other.

    Args:
        stages: The stages of a method.

    Raises:
        UserError: The first does not start at 0, or one starts before the one in front of it, or after the run.
    """
    starts = [stage.start for stage in stages]
    if not starts or starts[0] != 0 or starts != sorted(starts) or starts[-1] > 1:
        raise UserError(f"stages that start at {starts} do not follow each other from 0 on, in shares of the run")


def stage_at(stages: Sequence[Stage], progress: float) -> int:
    """Return the stage that a step belongs to: a pure function of the step's number.

    Args:
        stages: The stages, in order.
        progress: The share of the run that is done before the step, in ``[0, 1]``.

    Returns:
        The position of the stage, from 0.

    Example:
        >>> stages = (Stage(), Stage(start=0.5), Stage(start=0.5), Stage(start=1.0))
        >>> stage_at(stages, 0.49), stage_at(stages, 0.5), stage_at(stages, 1.0)
        (0, 2, 2)
    """
    return max(i for i, stage in enumerate(stages) if stage.start <= progress and (i == 0 or stage.start < 1))


def rate_at(stages: Sequence[Stage], progress: float) -> float:
    """Return what the learning rate of the schedule is multiplied by.

    Args:
        stages: The stages, in order.
        progress: The share of the run that is done, in ``[0, 1]``.

    Example:
        >>> rate_at((Stage(), Stage(start=0.5, rate=0.1, cosine=1.0)), 0.75)
        0.05
    """
    number = stage_at(stages, progress)
    stage = stages[number]
    end = stages[number + 1].start if number + 1 < len(stages) else 1.0
    done = (progress - stage.start) / (end - stage.start) if end > stage.start else 0.0
    return stage.rate * (1 + math.cos(math.pi * stage.cosine * done)) / 2
