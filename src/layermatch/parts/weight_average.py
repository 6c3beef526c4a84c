"""An exponential moving average of a network's weights, evaluated beside the live ones."""

from __future__ import annotations

import copy
from typing import Self

import torch

from layermatch.errors import check_bool, check_number
from layermatch.functional import warmup_decay
from layermatch.networks import Network
from layermatch.parts.step import Step, StepState

__all__ = ["WeightAverage"]


class WeightAverage(StepState):
    r"""A second network whose parameters are the average of the first's.

    .. math:: \bar\theta \leftarrow \beta \bar\theta + (1 - \beta) \theta

    Parameters are averaged; buffers (BatchNorm's running statistics) are those of the live network, as in both PyTorch
    references (TorchSSL, USB). It is a module of its own: nothing is ever swapped into the live network. Parameters
    that never move (``network.frozen``) are the live network's own.

    Args:
        network: The network to follow; copied.
        decay: ``beta``, in ``[0, 1)``; 0 makes the average equal to the live network.
        warmup: Whether the decay grows as ``min(beta, (1 + t) / (10 + t))``, for runs too short to forget the random
            start otherwise.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> from layermatch.networks import wrn_small
        >>> network = wrn_small(num_classes=10)
        >>> average = WeightAverage(network, decay=0.999, warmup=False)
        >>> average.update(network, num_updates=0)
    """

    def __init__(self, network: Network, *, decay: float, warmup: bool) -> None:
        super().__init__()
        self.check(decay=decay, warmup=warmup)
        self.decay = decay
        self.warmup = warmup
        # What never moves is not kept twice.
        shared = {id(parameter): parameter for name, parameter in network.named_parameters() if name in network.frozen}
        self.network = copy.deepcopy(network, shared).requires_grad_(False).eval()

    @staticmethod
    def check(*, decay: float, warmup: bool) -> None:
        """Refuse what the constructor would refuse, before there is a network.

        Raises:
            UserError: A value is out of range.
        """
        check_number("ema_decay", decay, low=0, high=1, high_open=True)
        check_bool("ema_warmup", warmup)

    @torch.no_grad()
    def update(self, network: Network, *, num_updates: int) -> None:
        """Move the average towards the live network, after an optimizer step.

        Args:
            network: The live network.
            num_updates: The number of optimizer steps made before this one.
        """
        decay = warmup_decay(self.decay, num_updates) if self.warmup else self.decay
        modules = list(zip(self.network.moving, network.moving, strict=True))
        both = (pair for mine, live in modules for pair in zip(mine.parameters(), live.parameters(), strict=True))
        averages, parameters = zip(*(pair for pair in both if pair[0] is not pair[1]), strict=True)
        torch._foreach_lerp_(averages, parameters, 1 - decay)
        buffers = [pair for mine, live in modules for pair in zip(mine.buffers(), live.buffers(), strict=True)]
        if buffers:
            # One call for all: a graphics card would otherwise be given a kernel for each.
            own, current = zip(*buffers, strict=True)
            torch._foreach_copy_(own, current)

    def after_step(self, step: Step) -> None:
        """Move the average towards the live network, after an optimizer step."""
        self.update(step.network, num_updates=step.number)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in evaluation mode: nobody trains the average."""
        return super().train(False)
