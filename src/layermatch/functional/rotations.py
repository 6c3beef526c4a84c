"""Quarter turns of images: a task that labels itself."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["quarter_turns"]


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Return each image turned by its own number of quarter turns, anticlockwise.

    Source: rotation prediction (Gidaris et al. 2018), which ReMixMatch (Berthelot et al. 2020) has as a loss.

    Args:
        images: ``(N, C, S, S)``, any dtype, as high as wide.
        turns: ``(N,)`` int64 in ``[0, 4)``.

    Returns:
        ``(N, C, S, S)``.

    Example:
        >>> quarter_turns(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1]))
        tensor([[[[2, 4],
                  [1, 3]]]])
    """
    turned = torch.stack([images.rot90(times, (2, 3)) for times in range(4)])
    return turned[turns, torch.arange(len(images), device=images.device)]
