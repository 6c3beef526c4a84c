"""How the gradients of labels and of pseudo-labels join, parameter by parameter, whatever the method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from layermatch.errors import UserError, check_number
from layermatch.functional import keep_agreeing, scale_for
from layermatch.networks import Network

__all__ = ["AgreeingGradients", "GradientRule", "ScaledGradients"]


class GradientRule(ABC):
    """Takes the gradients of both sources apart, at the price of a second backward pass.

    It asks nothing of a method but that each of its losses says where it comes from. Where a stop-gradient does the
    same, as for Grad-ReLU, that is cheaper.
    """

    def check(self, network: Network) -> None:  # noqa: B027 -- most have nothing to refuse
        """Refuse a network that the rule says nothing about; by default any network will do.

        Args:
            network: The network that will be trained.

        Raises:
            UserError: The rule names a parameter that is not there.
        """

    @abstractmethod
    def combine(self, name: str, from_labels: Tensor, from_pseudo: Tensor) -> Tensor:
        """Return the pseudo-label gradient that one parameter receives.

        Args:
            name: The parameter's name in the network.
            from_labels: Its gradient of the losses of labels, mean over all ranks.
            from_pseudo: Its gradient of the losses of pseudo-labels, mean over all ranks.
        """


class ScaledGradients(GradientRule):
    r"""Multiplies the pseudo-label gradient of some parameters, for study.

    .. math:: g_p = g^s_p + c_p \, g^u_p

    LayerMatch's Grad-ReLU is ``{"classifier": 0}`` on FixMatch. Source: ours.

    Args:
        scales: Parameter-name pattern to scale in ``[0, 1]``; see :func:`~layermatch.functional.scale_for`.

    Raises:
        UserError: A scale is out of range, or ``scales`` is no mapping.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> ScaledGradients({"classifier": 0.5}).combine("classifier.weight", one, one)
        tensor([0.5000])
    """

    def __init__(self, scales: Mapping[str, float]) -> None:
        if not isinstance(scales, Mapping):
            raise UserError(f"gradient_scale={scales!r} is not legal: give {{PATTERN: SCALE, ...}}")
        for pattern, scale in scales.items():
            check_number(f"gradient_scale.{pattern}", scale, low=0, high=1)
        self.scales = dict(scales)

    def check(self, network: Network) -> None:
        """Refuse a pattern that matches no parameter; see :class:`GradientRule`."""
        names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
        for pattern in self.scales:
            # -1 stands for "matched": no legal scale is negative.
            if not any(scale_for(name, {pattern: -1.0}) < 0 for name in names):
                raise UserError(
                    f"gradient_scale: {pattern!r} matches no parameter: the network has names like "
                    f"{names[0]}, {names[-1]}"
                )

    def combine(self, name: str, from_labels: Tensor, from_pseudo: Tensor) -> Tensor:  # noqa: ARG002
        """Return the scaled gradient; see :class:`GradientRule`."""
        return scale_for(name, self.scales) * from_pseudo


class AgreeingGradients(GradientRule):
    """Lets into one group the components of the pseudo-label gradient whose sign agrees with the labels' gradient.

    Source: ours, for study; see :func:`~layermatch.functional.keep_agreeing`.

    NOTE: Signs are those of each of accumulated batches, of all processes: two such batches are not one of both.

    Args:
        group: The parameter group, ``classifier`` for example. All other groups receive the whole gradient.

    Example:
        >>> import torch
        >>> rule = AgreeingGradients("classifier")
        >>> rule.combine("classifier.bias", torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0]))
        tensor([2., 0.])
    """

    def __init__(self, group: str) -> None:
        self.group = group

    def combine(self, name: str, from_labels: Tensor, from_pseudo: Tensor) -> Tensor:
        """Return the agreeing components; see :class:`GradientRule`."""
        return keep_agreeing(from_pseudo, from_labels) if name.startswith(f"{self.group}.") else from_pseudo
