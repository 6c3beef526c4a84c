"""The random numbers of layers such as dropout."""

from __future__ import annotations

import torch

__all__ = ["seed_generators"]


def seed_generators(seed: int, *, device: torch.device) -> None:
    """Seed torch's generators of the processor and of one device, as ``torch.manual_seed`` does for all that there are.

    That one formats the stack of calls once for every kind of device that torch knows and this process has not woken,
    to show it should that fail later: about a millisecond, in every step.

    Args:
        seed: The seed, from 0 to 2**64 - 1.
        device: The device that computes.

    Example:
        >>> seed_generators(3, device=torch.device("cpu"))
        >>> first = torch.rand(2)
        >>> bool((first == torch.rand(2, generator=torch.Generator().manual_seed(3))).all())
        True
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
