"""The optimizer's parameter groups and their learning rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from layermatch.networks import Network
from layermatch.parts.stages import Stage, rate_at

__all__ = ["LearningRate", "Schedule", "groups_to_optimize"]

Schedule = Callable[[int, int], float]


def groups_to_optimize(network: Network) -> list[dict[str, Any]]:
    """Return the groups {extractor, each head} x {decay, no decay}, as a torch optimizer takes them.

    Args:
        network: The network that is trained. Its kernels have weight decay, its biases and BatchNorm parameters none:
            they have one dimension.
    """
    groups: list[dict[str, Any]] = []
    for name, named in network.parameter_groups().items():
        decayed = [p for _, p in named if p.ndim > 1]
        undecayed = [p for _, p in named if p.ndim <= 1]
        groups.append({"name": f"{name}/decay", "params": decayed})
        groups.append({"name": f"{name}/no_decay", "params": undecayed, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


class LearningRate:
    """Sets the learning rate of every group to that of a step: its first one, times the schedule and the stage.

    Args:
        schedule: ``(step, max_steps) -> factor`` of the initial learning rate.
        stages: The stages of the method, which may have factors of their own.
    """

    def __init__(self, schedule: Schedule, stages: Sequence[Stage]) -> None:
        self.schedule = schedule
        self.stages = tuple(stages)
        #: The learning rate of each parameter group, as the optimizer was made with.
        self._initial: list[float] = []

    def start(self, optimizer: Optimizer) -> None:
        """Remember what an optimizer was made with."""
        self._initial = [float(group["lr"]) for group in optimizer.param_groups]
        self.restore(optimizer)

    def restore(self, optimizer: Optimizer) -> None:
        """Have the rates of this run's settings, which the optimizer's state of a checkpoint has replaced."""
        for group, rate in zip(optimizer.param_groups, self._initial, strict=True):
            group["initial_lr"] = rate

    def set(self, optimizer: Optimizer, *, step: int, max_steps: int) -> None:
        """Set the rates of a step.

        Args:
            optimizer: The optimizer.
            step: The steps made so far.
            max_steps: The steps of the run.
        """
        factor = self.schedule(step, max_steps) * rate_at(self.stages, step / max_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
