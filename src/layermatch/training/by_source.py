"""The gradients of labels and of pseudo-labels, taken apart and joined again by rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from layermatch.distributed import all_reduce_mean_
from layermatch.layerwise import GradientRule
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses

__all__ = ["GradientsBySource", "RunBackward"]


class RunBackward(Protocol):
    """Adds a loss's gradients of this rank's batch to ``.grad``."""

    def __call__(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Run the backward pass."""
        ...


class GradientsBySource:
    """Two backward passes in place of one: each pseudo-label gradient goes through rules before it joins the other.

    Args:
        network: The network that is trained.
        rules: What each parameter's pseudo-label gradient goes through, in this order.
    """

    def __init__(self, network: Network, rules: Sequence[GradientRule]) -> None:
        self.network = network
        self.rules = rules

    def add(self, losses: Losses, *, run_backward: RunBackward) -> None:
        """Add the joined gradients to ``.grad``, mean over all ranks.

        Args:
            losses: The losses of one batch.
            run_backward: Runs a backward pass without an exchange between ranks.
        """
        from_pseudo = self._gradients(losses.of(PSEUDO_LABELS), run_backward, retain_graph=True)
        from_labels = self._gradients(losses.of(LABELS), run_backward, retain_graph=False)
        for name, parameter in self._learning().items():
            grad = from_labels[name] + self.combine(name, from_labels[name], from_pseudo[name])
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def combine(self, name: str, from_labels: Tensor, from_pseudo: Tensor) -> Tensor:
        """Make the pseudo-label gradient of one parameter; see :class:`~layermatch.layerwise.GradientRule`."""
        for rule in self.rules:
            from_pseudo = rule.combine(name, from_labels, from_pseudo)
        return from_pseudo

    def _learning(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}

    def _gradients(self, loss: Tensor, run_backward: RunBackward, *, retain_graph: bool) -> dict[str, Tensor]:
        """Return the gradients of one loss, mean over all ranks; ``.grad`` is left as it was."""
        parameters = self._learning()
        before = {name: parameter.grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
        if loss.requires_grad:
            run_backward(loss, retain_graph=retain_graph)
        gradients = {}
        for name, parameter in parameters.items():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients[name] = all_reduce_mean_(grad)
            parameter.grad = before[name]
        return gradients
