"""Iterative averaging of models (IMWA): several are trained from the same weights, and their mean is trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from layermatch.errors import UserError, check_number

__all__ = ["Episodes", "place_in_run"]

#: A tree of mappings, with tensors and numbers as leaves.
Tree = Any


class Episodes:
    r"""Trains M models from the same weights for an episode, then goes on with their mean; for any method.

    .. math:: \theta_{e + 1} = \frac{1}{M} \sum_{m=1}^{M} \theta_e^{(m)}

    where :math:`\theta_e^{(m)}` is :math:`\theta_e` after S optimizer steps, each model on batches of its own. Source:
    IMWA (Huang et al. 2024, arXiv 2404.16331), its abstract and published summaries.

    The models are trained one after another by the one optimizer: at its turn each starts from what all start from. As
    they do not see each other within an episode, that is the same as training them at once, and it takes the memory of
    two more models whatever M is. A run of ``max_steps`` optimizer steps is thus M models of ``max_steps / M`` steps:
    schedule, ramps and weight average go by the steps of a model (:meth:`step_of_model`).

    NOTE: The paper's text beyond its summaries was not to be had. That the averages that are evaluated, BatchNorm's
    running statistics and the state of the optimizer (its momentum) are the mean of the models' as the weights are,
    is ours. So one model is the method without IMWA, to the bit; and the mean of the averages is the average of the
    mean, as averages are linear.

    NOTE: The state of the method (thresholds, banks) starts alike for each model; that of the last one is gone on with,
    as not all of it has a mean. This is ours as well.

    Args:
        members: M, at least 1.
        episode: S, the optimizer steps of each model in an episode, at least 1.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> episodes = Episodes(members=2, episode=3)
        >>> [episodes.step_of_model(step) for step in range(8)]
        [0, 1, 2, 0, 1, 2, 3, 4]
    """

    def __init__(self, *, members: int, episode: int) -> None:
        check_number("members", members, low=1, integer=True)
        check_number("episode", episode, low=1, integer=True)
        self.members = members
        self.episode = episode
        #: What the models of the episode start from, and the sum of those that have been trained.
        self._start: Tree = None
        self._sum: Tree = None

    @classmethod
    def of(cls, options: object) -> Episodes | None:
        """Make episodes as the setting ``imwa`` has them.

        Args:
            options: ``{"members": M, "episode": S}``, or None for a run without.

        Raises:
            UserError: It is neither, or a value is out of range.
        """
        if options is None:
            return None
        if not isinstance(options, Mapping) or set(options) != {"members", "episode"}:
            raise UserError(f"imwa={options!r} is not legal: give {{members: NUMBER, episode: STEPS}}, or null")
        try:
            return cls(**options)
        except UserError as error:
            raise UserError(f"imwa.{error}") from error

    def check(self, *, max_steps: int, num_stages: int) -> None:
        """Refuse a run that it cannot serve.

        Args:
            max_steps: The optimizer steps of the run.
            num_stages: The number of the method's stages.

        Raises:
            UserError: The last episode would not end, or the method has stages.
        """
        if num_stages > 1:
            raise UserError("imwa is not legal with a method that has stages: its models would not be in the same one")
        if max_steps % (self.members * self.episode):
            raise UserError(
                f"imwa: {max_steps} steps are not whole episodes of {self.members} x {self.episode} steps: give "
                "trainer.max_steps as a multiple of that"
            )

    def step_of_model(self, step: int) -> int:
        """Count the steps that the model which is trained now has behind it, those before the episode included.

        Args:
            step: The optimizer steps of the run made so far.
        """
        return step // (self.members * self.episode) * self.episode + step % self.episode

    @torch.no_grad()
    def begin(self, parts: Mapping[str, nn.Module], optimizer: Optimizer) -> None:
        """Keep what the models start from, before the first step of a run; does nothing where a run goes on.

        Args:
            parts: The modules whose state a model has; the state of ``method`` is not averaged.
            optimizer: The optimizer.
        """
        if self._start is None:
            self._start = copy.deepcopy(_state_of(parts, optimizer))

    @torch.no_grad()
    def after_step(self, parts: Mapping[str, nn.Module], optimizer: Optimizer, *, step: int) -> None:
        """Take the next model's turn, or go on with the mean, where that is due.

        Args:
            parts: The modules whose state a model has, the same as for :meth:`begin`.
            optimizer: The optimizer.
            step: The optimizer steps of the run made so far.
        """
        if step % self.episode:
            return
        state = _state_of(parts, optimizer)
        self._sum = copy.deepcopy(state) if self._sum is None else _combined(torch.add, self._sum, state)
        if step % (self.members * self.episode):
            _set_state(parts, optimizer, copy.deepcopy(self._start))
            return
        self._start = _combined(lambda total, _: total / self.members, self._sum, state)
        self._start["method"] = copy.deepcopy(state["method"])
        self._sum = None
        _set_state(parts, optimizer, copy.deepcopy(self._start))

    def state_dict(self) -> dict[str, Tree]:
        """Return what a run that goes on must know."""
        return {"start": self._start, "sum": self._sum}

    def load_state_dict(self, state: Mapping[str, Tree]) -> None:
        """Go on from a saved state.

        Args:
            state: What :meth:`state_dict` gave, on any device.
        """
        self._start, self._sum = state["start"], state["sum"]


def place_in_run(step: int, max_steps: int, episodes: Episodes | None) -> tuple[int, int]:
    """Return where a run stands for its method and schedule: the steps made so far, of how many.

    Args:
        step: The optimizer steps made so far.
        max_steps: The optimizer steps of the run.
        episodes: The episodes of several models that make the steps in turn; None is one model.

    Example:
        >>> place_in_run(7, 12, None), place_in_run(7, 12, Episodes(members=2, episode=3))
        ((7, 12), (4, 6))
    """
    if episodes is None:
        return step, max_steps
    return episodes.step_of_model(step), max_steps // episodes.members


def _state_of(parts: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Tree]:
    # The mean of what never moves could be rounded away from it.
    resting: frozenset[str] = getattr(parts.get("network"), "resting", frozenset())
    modules = {
        part: {
            name: value for name, value in module.state_dict().items() if name.removeprefix("network.") not in resting
        }
        for part, module in parts.items()
    }
    return modules | {"optimizer": optimizer.state_dict()["state"]}


def _set_state(parts: Mapping[str, nn.Module], optimizer: Optimizer, state: dict[str, Tree]) -> None:
    for name, module in parts.items():
        module.load_state_dict(module.state_dict() | state[name])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})


def _combined(combine: Callable[[Any, Any], Any], first: Tree, second: Tree) -> Tree:
    """Combine the floating leaves of two trees; what is no number to average is that of the second."""
    if isinstance(second, Mapping):
        return {key: _combined(combine, first[key], value) for key, value in second.items()}
    if isinstance(second, torch.Tensor) and second.is_floating_point():
        return combine(first.to(second.device), second)
    return copy.deepcopy(second)
