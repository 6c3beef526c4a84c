"""Which way labels and pseudo-labels pull each layer group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layermatch.distributed import all_reduce_mean_
from layermatch.functional import cosine_similarity, gradient_gap
from layermatch.layerwise import LayerLosses
from layermatch.metrics import GRADIENT_GAP, LAYER_COSINE, LOSS_GAP, NORM_PSEUDO, NORM_SUPERVISED
from layermatch.models import Network

__all__ = ["measure_clustering", "measure_layer_gradients"]

#: From a parameter's name, its supervised and its pseudo-label gradient to the gradient it is trained with.
Combine = Callable[[str, Tensor, Tensor], Tensor]


def measure_layer_gradients(
    network: Network, losses: LayerLosses, *, combine: Combine | None = None
) -> dict[str, Tensor]:
    r"""Norms of the supervised and the pseudo-label gradient of each layer group, and the cosine between them.

    .. math:: \cos_g = \frac{\langle \nabla_g L_s, \nabla_g L_p \rangle}{\|\nabla_g L_s\| \, \|\nabla_g L_p\|}

    with :math:`L_p` the pseudo-label loss as the rule routes it (its weight included), so that the gradient is the one
    that the layers receive: that of a classifier under Grad-ReLU is 0. Source: ours.

    It takes two backward passes of its own, by ``torch.autograd.grad``, which adds to no ``.grad``, runs none of
    DistributedDataParallel's hooks, sees no new data and draws no random number: the step that follows is the same to
    the bit. The graph is kept for that step, and room is needed for both gradients.
    Gradients are averaged over all ranks before they are measured, so that
    ``N`` ranks log what one rank would.

    Args:
        network: gives the layer groups, see :meth:`~layermatch.models.Network.layer_groups`.
        losses: of one batch, with their graph.
        combine: what a rule makes of both gradients, where it takes them apart
            (:meth:`~layermatch.layerwise.LayerwiseRule.combine_gradients`). The received pseudo-label gradient is then
            its result less the supervised one.

    Returns:
        Scalars ``layers/GROUP/grad_norm_supervised``, ``layers/GROUP/grad_norm_pseudo`` and ``layers/GROUP/cosine``.
        The cosine is NaN where a gradient is 0. A loss without pseudo-labels has the first alone.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    supervised = _gradients(losses.supervised, named)
    pseudo = _gradients(losses.pseudo, named) if losses.pseudo.requires_grad else None
    if pseudo is not None and combine is not None:
        pseudo = {name: combine(name, supervised[name], pseudo[name]) - supervised[name] for name in named}

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


def measure_clustering(losses: LayerLosses) -> dict[str, tuple[Tensor, Tensor]]:
    r"""How far Avg-Clustering's loss is from the pseudo-label loss that it stands beside.

    ``avg_clustering/loss_gap`` is :math:`|L_{ac} - L_u| / L_u`, and ``avg_clustering/gradient_gap`` is
    :math:`\|\nabla_z L_{ac} - \nabla_z L_u\| / \|\nabla_z L_u\|`, with :math:`z` the strong views' features. Where both
    are near 0, Avg-Clustering changes nothing. Source: ours.

    Args:
        losses: of one batch, with their graph, which is kept.

    Returns:
        Numerators and denominators, of the batches of all ranks; none where the rule has no such loss.
    """
    features = losses.features_strong
    if features is None:
        return {}
    loss, reference = losses.parts["avg_clustering"], losses.parts["pseudo"]
    gap, length = all_reduce_mean_(torch.stack(gradient_gap(loss, reference, features))).sqrt()
    return {
        LOSS_GAP.name: ((loss - reference).detach().abs(), reference.detach()),
        GRADIENT_GAP.name: (gap, length),
    }


def _gradients(loss: Tensor, named: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Gradients of one loss, mean over all ranks; 0 where the loss does not reach a parameter."""
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    # In one tensor: one collective instead of one for each parameter.
    flat = all_reduce_mean_(torch.cat([grad.reshape(-1) for grad in found]))
    parts = torch.split(flat, [parameter.numel() for parameter in named.values()])
    return dict(zip(named, parts, strict=True))
