"""The stage of its method that a run is in."""

from __future__ import annotations

from layermatch.methods import Method
from layermatch.networks import Network
from layermatch.parts import Losses, Pool, Step
from layermatch.parts.losses import check_losses

__all__ = ["CurrentStage"]


class CurrentStage:
    """Begins a stage at its first step, and looks at the losses of each stage once, as each has its own."""

    def __init__(self) -> None:
        #: The number of the stage that has begun; -1 before the first step.
        self.number = -1
        self._has_checked_losses = False

    def begin(self, method: Method, step: Step, pool: Pool) -> bool:
        """Begin the stage of a step, where it has not begun.

        Args:
            method: The method, whose stages they are.
            step: The step that is to be made.
            pool: Gives the logits of the whole pool, and its images; see :meth:`Method.begin_stage`.

        Returns:
            Whether a stage has begun now.
        """
        number = method.stage_of(step)
        if number == self.number:
            return False
        method.begin_stage(number, pool)
        self.number, self._has_checked_losses = number, False
        return True

    def check_losses(self, losses: Losses, *, network: Network, method: Method) -> None:
        """Refuse losses that a method may not give, at the first batch of a stage.

        Args:
            losses: The losses of a batch.
            network: The network, whose parameter groups they may reach.
            method: The method that gave them.

        Raises:
            UserError: A loss is none, or does not say what it reaches.
        """
        if not self._has_checked_losses:
            check_losses(losses, groups=network.parameter_groups(), giver=type(method).__name__)
            self._has_checked_losses = True
