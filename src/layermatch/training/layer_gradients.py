"""Which way labels and pseudo-labels pull each layer group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_mean_
from layermatch.functional import cosine_similarity
from layermatch.metrics import LAYER_COSINE, NORM_PSEUDO, NORM_SUPERVISED
from layermatch.networks import Network
from layermatch.parts import LABELS, PSEUDO_LABELS, Losses

__all__ = ["measure_layer_gradients"]

#: A function of a parameter's name, its supervised and its pseudo-label gradient; it gives the one that it receives.
Combine = Callable[[str, Tensor, Tensor], Tensor]


def measure_layer_gradients(network: Network, losses: Losses, *, combine: Combine | None = None) -> dict[str, Tensor]:
    r"""Measure the norms of each layer group's supervised and pseudo-label gradient, and the cosine between them.

    .. math:: \cos_g = \frac{\langle \nabla_g L_s, \nabla_g L_p \rangle}{\|\nabla_g L_s\| \, \|\nabla_g L_p\|}

    with :math:`L_p` the pseudo-label loss as the rule routes it (its weight included), so that the gradient is the one
    that the layers receive: that of a classifier under Grad-ReLU is 0. Source: ours.

    It takes two backward passes of its own, by ``torch.autograd.grad``, which adds to no ``.grad``, runs none of
    DistributedDataParallel's hooks, sees no new data and draws no random number: the step that follows is the same to
    the bit. The graph is kept for that step, and room is needed for both gradients.
    Gradients are averaged over all ranks before they are measured, so that
    ``N`` ranks log what one rank would.

    Args:
        network: The network; it gives the layer groups, see :meth:`~layermatch.networks.Network.layer_groups`.
        losses: The losses of one batch, with their graph.
        combine: The pseudo-label gradient that a parameter receives, where gradients are taken apart; see
            :meth:`~layermatch.layerwise.GradientRule.combine`.

    Returns:
        Scalars ``layers/GROUP/grad_norm_supervised``, ``layers/GROUP/grad_norm_pseudo`` and ``layers/GROUP/cosine``.
        The cosine is NaN where a gradient is 0. A loss without pseudo-labels has the first alone.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    supervised = _gradients(losses.of(LABELS), named)
    loss_pseudo = losses.of(PSEUDO_LABELS)
    pseudo = _gradients(loss_pseudo, named) if loss_pseudo.requires_grad else None
    if pseudo is not None and combine is not None:
        pseudo = {name: combine(name, supervised[name], pseudo[name]) for name in named}

    values = {}
    for group, parameters in network.layer_groups().items():
        names = [name for name, _ in parameters if name in named]
        if not names:
            continue  # frozen
        grad_supervised = torch.cat([supervised[name] for name in names])
        values[NORM_SUPERVISED.of(group)] = grad_supervised.norm()
        if pseudo is not None:
            grad_pseudo = torch.cat([pseudo[name] for name in names])
            values[NORM_PSEUDO.of(group)] = grad_pseudo.norm()
            values[LAYER_COSINE.of(group)] = cosine_similarity(grad_supervised, grad_pseudo)
    return values


def _gradients(loss: Tensor, named: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Return the gradients of one loss, mean over all ranks; 0 where the loss does not reach a parameter."""
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    # In one tensor: one collective instead of one for each parameter.
    flat = all_reduce_mean_(torch.cat([grad.reshape(-1) for grad in found]))
    parts = torch.split(flat, [parameter.numel() for parameter in named.values()])
    return dict(zip(named, parts, strict=True))
