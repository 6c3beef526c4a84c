"""Small trainable modules beside frozen ones, which leave names and types of those as they are."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Adapter", "attach", "calls_of"]

#: The child of a module that its adapter is.
ADAPTER = "adapter"


class Adapter(nn.Module):
    r"""What is added to the output of a frozen module: a projection to few numbers and back, which starts at 0.

    LoRA (Hu et al. 2021, arXiv 2106.09685) adds to a linear layer, which it thereby gives the weight
    :math:`W + \frac{\alpha}{r} B A`:

    .. math:: h = W x + b + \frac{\alpha}{r} B A x

    AdaptFormer (Chen et al. 2022, arXiv 2205.13535) adds to the MLP of a transformer's block, with its own input:

    .. math:: h = \mathrm{MLP}(x) + s \, W_{up} \, \mathrm{ReLU}(W_{down} x + b_{down}) + s \, b_{up}

    :math:`B`, :math:`W_{up}` and :math:`b_{up}` start at 0, so that the network starts as it was without. Ours: no
    dropout, and a block that scales its MLP's output (LayerScale) scales what is added as well.

    Args:
        num_in: The width of the input.
        num_out: The width of the output.
        width: The numbers between, r or the width of the bottleneck, at least 1.
        scale: alpha / r, or s.
        is_linear: Whether it is LoRA's: no ReLU and no biases.

    Example:
        >>> import torch
        >>> Adapter(6, 4, width=2, scale=1.0, is_linear=True)(torch.ones(3, 6)).abs().sum().item()
        0.0
    """

    def __init__(self, num_in: int, num_out: int, *, width: int, scale: float, is_linear: bool) -> None:
        super().__init__()
        self.down = nn.Linear(num_in, width, bias=not is_linear)
        self.up = nn.Linear(width, num_out, bias=not is_linear)
        self.scale = scale
        self.is_linear = is_linear
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        if not is_linear:
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is added.

        Args:
            x: ``(..., num_in)``, floating.

        Returns:
            ``(..., num_out)``.
        """
        inner: Tensor = self.down(x)
        out: Tensor = self.up(inner if self.is_linear else F.relu(inner))
        return out * self.scale


def attach(module: nn.Module, adapter: Adapter) -> None:
    """Add an adapter's output to that of a module, from now on and in copies of it.

    Args:
        module: Any module that is called with one tensor, but for ``nn.Sequential``, which would run its child in turn.
        adapter: The adapter; it becomes the module's child ``adapter``.
    """
    module.add_module(ADAPTER, adapter)
    module.register_forward_hook(_add)


def _add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    # Found by its name: a copy of the module has a copy of the adapter.
    adapter: Adapter = module.get_submodule(ADAPTER)  # type: ignore[assignment]
    added: Tensor = adapter(args[0])
    return output + added


def calls_of(network: nn.Module, images: Tensor, modules: dict[str, nn.Module]) -> set[str]:
    """Return the names of the modules that a forward pass calls: code that reads a module's weight goes past it.

    Args:
        network: The network, in the mode that it is in.
        images: ``(N, C, H, W)``.
        modules: Some of its modules, by name.
    """
    seen: set[str] = set()
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: seen.add(name)) for name, module in modules.items()]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
