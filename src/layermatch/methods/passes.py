"""How the views of a step go through the network: together, without gradient, or by the statistics of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layermatch.networks import CLASSIFIER, BatchStatistics, Network, Output

__all__ = [
    "detached",
    "keep_running_statistics",
    "normalising_alike",
    "share_statistics",
    "together",
    "without_gradient",
]


def together(
    network: Network, views: Mapping[str, Tensor], *, heads: Sequence[str] = (CLASSIFIER,)
) -> dict[str, Output]:
    """Return several views in one pass with gradient, which BatchNorm normalises as one batch.

    Args:
        network: The network.
        views: The views by name, each ``(N, C, H, W)``.
        heads: The names of the heads.

    Returns:
        The outputs of each view.

    Example:
        >>> from layermatch.networks import wrn_small
        >>> out = together(wrn_small(num_classes=3), {"a": torch.zeros(2, 3, 8, 8), "b": torch.zeros(4, 3, 8, 8)})
        >>> out["b"].logits.shape
        torch.Size([4, 3])
    """
    sizes = [len(images) for images in views.values()]
    out = network(torch.cat(list(views.values())), heads=heads)
    features = out.features.split(sizes)
    split = {name: tensor.split(sizes) for name, tensor in out.heads.items()}
    return {
        view: Output(features[i], {name: tensors[i] for name, tensors in split.items()}) for i, view in enumerate(views)
    }


@torch.no_grad()
def without_gradient(network: Network, images: Tensor, *, heads: Sequence[str] = (CLASSIFIER,)) -> Output:
    """Return the views on their own, without gradient.

    Args:
        network: The network, in the mode that it is in.
        images: ``(N, C, H, W)``.
        heads: The names of the heads.
    """
    out: Output = network(images, heads=heads)
    # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
    torch.clear_autocast_cache()
    return out


@contextmanager
def keep_running_statistics(network: nn.Module) -> Iterator[None]:
    """Let what is sent through the network within leave BatchNorm's running statistics as they are.

    In training mode a batch is normalised by its own statistics as always. Source: the codes of TorchSSL and USB, whose
    methods before FixMatch feed the running statistics with labelled images alone.

    Args:
        network: The network.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    norms = [norm for norm in norms if norm.training]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def normalising_alike(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Have BatchNorm normalise what a network in evaluation mode sees within as another one does.

    Where the other one normalises by its batch this one does, too; where it has running statistics for good, as the
    frozen layers of a pretrained network do, this one keeps to them. Nothing else changes.

    A teacher that normalises by running statistics, which labelled images alone have fed, answers another question than
    a student that normalises the same images by their own.

    Args:
        network: The network, in evaluation mode.
        other: A network of the same layers.
    """
    pairs = zip(network.modules(), other.modules(), strict=True)
    norms = [
        norm
        for norm, theirs in pairs
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and theirs.training and not norm.training
    ]
    for norm in norms:
        norm.training = True
    try:
        with keep_running_statistics(network):
            yield
    finally:
        for norm in norms:
            norm.training = False


def detached(out: Output) -> Output:
    """Return the same outputs without their graph."""
    return Output(out.features.detach(), {name: tensor.detach() for name, tensor in out.heads.items()})


def share_statistics(
    network: Network,
    views: Mapping[str, Tensor],
    weak: Tensor,
    *,
    share: float,
    statistics: BatchStatistics,
    heads: Sequence[str] = (CLASSIFIER,),
) -> tuple[dict[str, Output], Output]:
    """Send some weak views along with the others, and the rest without gradient, normalised by that pass's statistics.

    Args:
        network: The network.
        views: The other views, for each name ``(N, C, H, W)``.
        weak: The weak views, ``(N, C, H, W)``; of these the first ``share`` go with the others.
        share: The share of the weak views, in ``[0, 1]``.
        statistics: The batch statistics of the network.
        heads: The names of the heads.

    Returns:
        The outputs of the other views, and those of the weak ones, detached.
    """
    first, rest = weak.tensor_split([round(share * len(weak))])
    # In the order of the references: labelled, weak, strong.
    name, *others = views
    with statistics.taken():
        sent = {name: views[name], "": first} | {other: views[other] for other in others}
        out = together(network, sent, heads=heads)
    out_first = detached(out.pop(""))
    if not len(rest):
        return out, out_first
    with statistics.applied():
        out_rest = without_gradient(network, rest, heads=heads)
    features = torch.cat([out_first.features, out_rest.features])
    return out, Output(features, {head: torch.cat([out_first.heads[head], out_rest.heads[head]]) for head in heads})
