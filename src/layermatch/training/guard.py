"""Keeps steps that are not finite out of the weights."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from layermatch.distributed import all_reduce_sum_, is_rank_zero
from layermatch.errors import RunError, check_number
from layermatch.networks import Network

__all__ = ["StepGuard"]

_log = logging.getLogger(__name__)


class StepGuard:
    """Decides whether a step is applied: its loss and its gradient must be finite, on every process.

    One infinite value would be in every weight after the step, in the averages after the next, and in every checkpoint
    from then on. The decision needs one number from the device at each step.

    Args:
        max_nonfinite: Steps in a row that may be rejected before the run ends, at least 1.

    Raises:
        UserError: ``max_nonfinite`` is out of range.
    """

    def __init__(self, *, max_nonfinite: int) -> None:
        check_number("max_nonfinite", max_nonfinite, low=1, integer=True)
        self.max_nonfinite = max_nonfinite
        #: Steps that were not applied, in all. Their batches are used up.
        self.num_rejected = 0
        self.in_a_row = 0
        self._parts: dict[str, Tensor] = {}
        self._watched: dict[str, Tensor] = {}

    def see(self, losses: dict[str, Tensor]) -> None:
        """Note one batch's losses by name; an optimizer step may have several."""
        for name, value in losses.items():
            total = value.detach().float()
            self._parts[name] = self._parts[name] + total if name in self._parts else total

    def watch(self, name: str, tensor: Tensor) -> None:
        """Note what must be finite beside the losses.

        Args:
            name: What it is, for the diagnosis.
            tensor: Any shape, float.
        """
        # 0 where all of it is finite, else no number: it adds nothing to a sum of losses.
        value = (tensor.detach().float() * 0).sum()
        self._watched[name] = self._watched[name] + value if name in self._watched else value

    def accepts(self, network: Network, *, step: int, lr: float) -> bool:
        """Return whether the step may be applied.

        Args:
            network: The network, with the gradients of the step.
            step: The optimizer steps made before, for the diagnosis.
            lr: The learning rate, for the diagnosis.

        Raises:
            RunError: Too many in a row were rejected.
        """
        parts, self._parts = self._parts, {}
        watched, self._watched = self._watched, {}
        parameters = [parameter for module in network.moving for parameter in module.parameters()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = sum([*parts.values(), *watched.values()], torch.zeros((), device=gradients[0].device))
        finite = torch.isfinite(nn.utils.get_total_norm(gradients) + total)
        # Gradients are the same on every process by now, losses are not.
        is_finite = not bool(all_reduce_sum_((~finite).float()) > 0)
        if is_finite:
            self.in_a_row = 0
            return True
        self._reject(network, parts | {n: v for n, v in watched.items() if v != 0}, step=step, lr=lr)
        return False

    def _reject(self, network: Network, parts: dict[str, Tensor], *, step: int, lr: float) -> None:
        self.num_rejected += 1
        self.in_a_row += 1
        state = f"step {step + 1}: {_losses(parts)}; learning rate {lr:.3g}; {_norms(network)}"
        if self.in_a_row >= self.max_nonfinite:
            raise RunError(
                f"{self.in_a_row} steps in a row were not finite and not applied, the last {state}: the checkpoints "
                f"are of good steps; lower optimizer.lr, give algorithm.clip_norm=1 or look at the images"
            )
        if self.in_a_row == 1 and is_rank_zero():
            _log.warning("loss or gradient not finite, step not applied: %s", state)

    def state_dict(self) -> dict[str, int]:
        """Return what a resumed run must know."""
        return {"num_rejected": self.num_rejected, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved state."""
        self.num_rejected, self.in_a_row = state["num_rejected"], state["in_a_row"]


def _losses(parts: dict[str, Tensor]) -> str:
    return "losses " + ", ".join(f"{name} {float(value):.3g}" for name, value in parts.items())


def _norms(network: Network) -> str:
    norms = {}
    for group, named in network.parameter_groups().items():
        gradients = [parameter.grad for _, parameter in named if parameter.grad is not None]
        norms[group] = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
    return "gradient norms " + ", ".join(f"{group} {norm:.3g}" for group, norm in norms.items())
