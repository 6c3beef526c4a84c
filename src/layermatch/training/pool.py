"""What the network says of every image of a set, in the middle of training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layermatch.data.batch import EvalBatch
from layermatch.distributed import all_gather_uneven_rows
from layermatch.methods import Method
from layermatch.networks import Network

__all__ = ["evaluating", "predict_in_order"]


@torch.no_grad()
def predict_in_order(method: Method, network: Network, batches: Iterable[EvalBatch], *, count: int) -> Tensor:
    """Return the logits of all images of a set, in the set's order; every rank gets those of all ranks.

    Args:
        method: Says which head is evaluated.
        network: The network, which is evaluated here, and is left in the modes that it was in.
        batches: This rank's part of the images, on its device; at least one batch, which may be empty.
        count: The number of images in the set.

    Returns:
        ``(count, K)``, at least float32.
    """
    with evaluating(network):
        found = [(batch.indices, method.outputs(network, batch.image).logits) for batch in batches]
    # Autocast keeps its bf16 copies of the weights, and those made under no_grad carry no gradient.
    torch.clear_autocast_cache()
    indices, logits = (all_gather_uneven_rows(torch.cat(parts)) for parts in zip(*found, strict=True))
    return torch.empty(count, logits.shape[1], dtype=logits.dtype, device=logits.device).index_copy_(0, indices, logits)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode within, and each of its modules in its own mode again afterwards.

    Args:
        network: The network.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
