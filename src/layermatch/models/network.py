"""A network with its extractor / classifier boundary explicit, as layer-wise learning needs it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.errors import check_bool, check_number

__all__ = ["Network", "NetworkOutput", "linear_float32"]


class NetworkOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
        features: z = f(x), shape ``(B, D)``, at least float32.
        logits: W z + b, shape ``(B, K)``, at least float32.
    """

    features: Tensor
    logits: Tensor


def linear_float32(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    r"""Linear layer z -> W z + b that never works in less than float32.

    Formula: :math:`l = W z + b`. Source: ours. The confidence :math:`\max_k \mathrm{softmax}(l)_k` is
    compared with thresholds such as 0.95, where neighbouring bfloat16 numbers lie 0.004 apart: rounding would
    decide which samples count. The layer is a negligible share of a network's work: the precision is free.

    Args:
        features: z, shape ``(..., D)``, any floating dtype.
        weight: W, shape ``(K, D)``, any floating dtype.
        bias: b, shape ``(K,)``, any floating dtype, or ``None``.

    Returns:
        Logits, shape ``(..., K)``, float32, or float64 where z or W is float64; under autocast too.

    Example:
        >>> z = torch.ones(2, 3, dtype=torch.bfloat16)
        >>> logits = linear_float32(z, torch.eye(3), torch.zeros(3))
        >>> logits.dtype, logits.shape
        (torch.float32, torch.Size([2, 3]))
    """
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    in_autocast = torch.is_autocast_enabled(features.device.type)
    # Entered only where it has something to switch off: otherwise it would stand in every exported graph.
    with torch.autocast(features.device.type, enabled=False) if in_autocast else nullcontext():
        return F.linear(features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


class Network(nn.Module):
    r"""A feature extractor f with parameters theta, and a linear classifier (W, b) on its features.

    Formula: :math:`z = f(x; \theta)`, logits :math:`= W z + b`. Source: the notation of LayerMatch (Liang et
    al. 2024), which gives the two groups of parameters different losses. Every head starts as in FixMatch
    (Sohn et al. 2020): Xavier-normal weight, zero bias.

    Args:
        extractor: module from images ``(B, C, H, W)`` to features ``(B, D)``.
        num_features: D, at least 1.
        num_classes: K, at least 2.
        pseudo_head: whether to add ``pseudo_classifier``, a second linear head (V, c) on the same features,
            for rules that keep what is learned from pseudo-labels apart from the classifier.

    Raises:
        UserError: a number is out of its range, or ``pseudo_head`` is not a bool.

    Example:
        >>> network = Network(nn.Flatten(), num_features=12, num_classes=10)
        >>> features, logits = network(torch.zeros(4, 3, 2, 2))
        >>> features.shape, logits.shape
        (torch.Size([4, 12]), torch.Size([4, 10]))
        >>> [name for name, _ in network.parameter_groups()["classifier"]]
        ['classifier.weight', 'classifier.bias']
    """

    def __init__(self, extractor: nn.Module, *, num_features: int, num_classes: int, pseudo_head: bool = False) -> None:
        super().__init__()
        check_number("model.num_features", num_features, low=1, integer=True)
        check_number("model.num_classes", num_classes, low=2, integer=True)
        check_bool("model.pseudo_head", pseudo_head)
        self.num_features = num_features
        self.num_classes = num_classes
        self.extractor = extractor
        self.classifier = _linear_head(num_features, num_classes)
        self.pseudo_classifier = _linear_head(num_features, num_classes) if pseudo_head else None

    def forward(self, images: Tensor) -> NetworkOutput:
        """Features, and the logits of ``classifier``.

        Args:
            images: normalised images, shape ``(B, C, H, W)``, floating.

        Returns:
            Features ``(B, D)`` and logits ``(B, K)``, both at least float32, under autocast too.
        """
        features: Tensor = self.extractor(images)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return NetworkOutput(features, linear_float32(features, self.classifier.weight, self.classifier.bias))

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Every parameter once, by the group whose loss it learns from.

        Returns:
            ``extractor``: theta; ``classifier``: W, b and, if there is one, the pseudo head. Each is a
            list of (name, parameter) with the names of ``named_parameters()``.
        """
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"extractor": [], "classifier": []}
        for name, parameter in self.named_parameters():
            groups["extractor" if name.startswith("extractor.") else "classifier"].append((name, parameter))
        return groups

    def layer_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Every parameter once, by the part of the network that it is in, from input to output.

        The extractor's parts are its children; a child that only holds a row of blocks of layers
        (``nn.Sequential`` or ``nn.ModuleList`` of such) is looked into, and so is an only child. The heads follow.

        Returns:
            Name of the part, without ``extractor.`` in front where that is clear, to (name, parameter) as
            in :meth:`parameter_groups`. A wide residual network has ``stem``, ``groups.0``, ``groups.1``, ...,
            ``activation``, ``classifier``; a ResNet-50 ``conv1``, ``bn1``, ``layer1``, ..., ``classifier``.

        Example:
            >>> from layermatch.models import wrn_small
            >>> list(wrn_small(num_classes=10).layer_groups())
            ['stem', 'groups.0', 'groups.1', 'groups.2', 'activation', 'classifier']
        """
        heads = [name for name, _ in self.named_children() if name != "extractor"]
        parts = [*_parts(self.extractor, "extractor"), *heads]
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for part in parts:
            short = part.removeprefix("extractor.")
            groups[part if short in heads else short] = []
        keys = dict(zip(parts, groups, strict=True))
        for name, parameter in self.named_parameters():
            # The longest: parameters of a module itself are beside those of its children.
            part = max((part for part in parts if name.startswith(f"{part}.")), key=len)
            groups[keys[part]].append((name, parameter))
        return {key: named for key, named in groups.items() if named}


def _parts(module: nn.Module, name: str) -> list[str]:
    """Names of the parts that a module's parameters are divided into; itself where it has some of its own."""
    children = [(f"{name}.{key}", child) for key, child in module.named_children() if _has_parameters(child)]
    own = [name] if next(module.parameters(recurse=False), None) is not None else []
    if not children:
        return [name]
    if len(children) == 1 and not own:
        return _parts(children[0][1], children[0][0])
    parts = own
    for child_name, child in children:
        parts += _parts(child, child_name) if _is_row_of_blocks(child) else [child_name]
    return parts


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_row_of_blocks(module: nn.Module) -> bool:
    row = (nn.Sequential, nn.ModuleList)
    return isinstance(module, row) and all(isinstance(child, row) for child in module.children())


def _linear_head(num_features: int, num_classes: int) -> nn.Linear:
    head = nn.Linear(num_features, num_classes)
    nn.init.xavier_normal_(head.weight)
    nn.init.zeros_(head.bias)
    return head
