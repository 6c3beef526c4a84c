"""The optimizer's parameter groups and their learning rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from layermatch.networks import EXTRACTOR, Network
from layermatch.parts.stages import Stage, rate_at

__all__ = ["LearningRate", "Schedule", "groups_to_optimize", "rate_of", "scale_rates"]

Schedule = Callable[[int, int], float]


#: What a group says its learning rate is, as a factor of the optimizer's.
SCALE = "lr_scale"


def groups_to_optimize(network: Network, *, layer_decay: float | None = None) -> list[dict[str, Any]]:
    r"""Return the groups {extractor, each head} x {decay, no decay}, as a torch optimizer takes them.

    With ``layer_decay`` :math:`\gamma` they are those of each part of the network, see
    :meth:`~layermatch.networks.Network.layer_groups`, and the learning rate falls from output to input:

    .. math:: \eta_d = \eta \, \gamma^{D - d}

    for a part of depth :math:`d` and the heads' depth :math:`D`; see :meth:`~layermatch.networks.Network.depths`.
    Source: ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022), where an embedding is 0 and the norm before the head
    is as deep as that.

    Args:
        network: The network that is trained. Its kernels have weight decay, its biases and BatchNorm parameters none:
            they have one dimension; nor has what an extractor names itself, by timm's ``no_weight_decay()``, such as
            the positions of a vision transformer. What is frozen is in no group.
        layer_decay: The factor from one depth to the one before it, in ``(0, 1]``; None has one rate for all.
    """
    spared = _spared(network)
    parts = network.parameter_groups() if layer_decay is None else network.layer_groups()
    scales = {} if layer_decay is None else _scales(network, layer_decay)
    groups: list[dict[str, Any]] = []
    for part, named in parts.items():
        learning = [(name, p) for name, p in named if p.requires_grad]
        decayed = [p for name, p in learning if p.ndim > 1 and name not in spared]
        undecayed = [p for name, p in learning if p.ndim <= 1 or name in spared]
        scale = {SCALE: scales[part]} if scales else {}
        groups.append({"name": f"{part}/decay", "params": decayed, **scale})
        groups.append({"name": f"{part}/no_decay", "params": undecayed, "weight_decay": 0.0, **scale})
    return [group for group in groups if group["params"]]


def _scales(network: Network, layer_decay: float) -> dict[str, float]:
    """Return the factor of the learning rate of each part of a network."""
    depths = network.depths()
    return {part: layer_decay ** (max(depths.values()) - depth) for part, depth in depths.items()}


def _spared(network: Network) -> set[str]:
    """Return the names of the parameters that the extractor wants no weight decay of."""
    names = getattr(network.extractor, "no_weight_decay", None)
    return {f"{EXTRACTOR}.{name}" for name in names()} if callable(names) else set()


def scale_rates(optimizer: Optimizer) -> None:
    """Give each group of :func:`groups_to_optimize` the learning rate of its depth; for an optimizer that is new."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get(SCALE, 1.0)


def rate_of(groups: Sequence[Mapping[str, Any]]) -> float:
    """Return the learning rate of the heads, which is that of all layers where none is scaled.

    Args:
        groups: The parameter groups of an optimizer, or of its saved state.
    """
    return float(max(groups, key=lambda group: float(group.get(SCALE, 1.0)))["lr"])


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
