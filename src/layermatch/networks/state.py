"""Tensors as the state of a module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["as_state_of"]


def as_state_of(module: nn.Module, tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return tensors in the form that a module's ``load_state_dict`` asks for, the versions of its layers with them.

    ``state_dict()`` says which version of each layer it is of, a file of plain tensors does not, and some layers refuse
    what says nothing (torchvision's MNASNet).

    Args:
        module: The module that they are for.
        tensors: The tensors by name.

    Example:
        >>> layer = nn.BatchNorm2d(2)
        >>> as_state_of(layer, dict(layer.state_dict()))._metadata[""]
        {'version': 2}
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(module.state_dict(), "_metadata", {})  # type: ignore[attr-defined]  # torch's own place
    return state
