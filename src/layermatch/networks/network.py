"""A network with its extractor / head boundary explicit, as layer-wise learning needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.errors import UserError, check_number

__all__ = ["CLASSIFIER", "EXTRACTOR", "Network", "Output", "linear_float32", "linear_head"]

#: Parameter groups: the feature extractor, and the head that tells classes apart.
EXTRACTOR, CLASSIFIER = "extractor", "classifier"


class Output(NamedTuple):
    """What one forward pass gives.

    Attributes:
        features: z = f(x), shape ``(B, D)``, at least float32.
        heads: What each head that was asked for makes of them; ``classifier`` gives logits W z + b, shape ``(B, K)``,
            at least float32.
    """

    features: Tensor
    heads: Mapping[str, Tensor]

    @property
    def logits(self) -> Tensor:
        """The logits of ``classifier``."""
        return self.heads[CLASSIFIER]


def linear_float32(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    r"""Apply a linear layer z -> W z + b that never works in less than float32.

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
    r"""A feature extractor f with parameters theta, and heads on its features, the first a linear classifier (W, b).

    Formula: :math:`z = f(x; \theta)`, logits :math:`= W z + b`. Source: the notation of LayerMatch (Liang et
    al. 2024), which gives the two groups of parameters different losses. A classifier starts as in FixMatch
    (Sohn et al. 2020): Xavier-normal weight, zero bias.

    A method adds the heads that it needs beside the classifier (:meth:`add_head`), such as a projection. Each is a
    child module of its own name, and a group of parameters.

    Args:
        extractor: A module from images ``(B, C, H, W)`` to features ``(B, D)``.
        num_features: D, at least 1; None takes ``extractor.num_features``.
        num_classes: K, at least 2. None leaves the classifier to the training module, which takes the number of
            classes from the data.

    Raises:
        UserError: A number is out of its range.

    Example:
        >>> network = Network(nn.Flatten(), num_features=12, num_classes=10)
        >>> out = network(torch.zeros(4, 3, 2, 2))
        >>> out.features.shape, out.logits.shape
        (torch.Size([4, 12]), torch.Size([4, 10]))
        >>> network.add_head("projection", nn.Linear(12, 5))
        >>> network(torch.zeros(4, 3, 2, 2), heads=("projection",)).heads["projection"].shape
        torch.Size([4, 5])
        >>> [name for name, _ in network.parameter_groups()["classifier"]]
        ['classifier.weight', 'classifier.bias']
    """

    classifier: nn.Linear

    #: What the weights of the extractor want images to be: the mean and the deviation of each channel, and the height
    #: and width in pixels. None where the weights are random.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    #: The names of the parameters that never move, and those of all tensors that do not, statistics among them.
    frozen: frozenset[str] = frozenset()
    resting: frozenset[str] = frozenset()
    #: Where the weights are that the state leaves out: ``path``, ``network`` (in words) and ``digest``; None: none are.
    base: Mapping[str, str] | None = None
    #: What is said of the network before a run, name to text.
    notes: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, extractor: nn.Module, *, num_features: int | None = None, num_classes: int | None = None
    ) -> None:
        super().__init__()
        width: Any = getattr(extractor, "num_features", None) if num_features is None else num_features
        check_number("num_features", width, low=1, integer=True)
        self.num_features: int = width
        #: Whether ``(B, D)`` that :meth:`forward` is given are features, which go to the heads as they are.
        self.reads_features = False
        self.extractor = extractor
        if num_classes is not None:
            self.add_classifier(num_classes)

    def add_classifier(self, num_classes: int) -> None:
        """Add the classifier.

        Args:
            num_classes: K, at least 2.

        Raises:
            UserError: The number is out of range, or there is a classifier for another number of classes.
        """
        check_number("num_classes", num_classes, low=2, integer=True)
        if CLASSIFIER not in self.heads:
            self.add_head(CLASSIFIER, linear_head(self.num_features, num_classes))
        elif self.num_classes != num_classes:
            raise UserError(
                f"the network tells {self.num_classes} classes apart and the data have {num_classes}: give "
                f"num_classes={num_classes}"
            )

    def add_head(self, name: str, head: nn.Module) -> None:
        """Add a head.

        Args:
            name: The name of the head, of its parameter group and of the child module.
            head: A module from features ``(B, D)``.

        Raises:
            UserError: The name is taken.
        """
        if hasattr(self, name):
            raise UserError(f"the network has {name!r} already: give the head another name")
        self.add_module(name, head)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The heads by name."""
        return {name: module for name, module in self.named_children() if name != EXTRACTOR}

    @property
    def moving(self) -> list[nn.Module]:
        """The modules that a step may move: the heads alone where features are computed before, else the network."""
        return list(self.heads.values()) if self.reads_features else [self]

    @property
    def num_classes(self) -> int:
        """K, the classes that the classifier tells apart."""
        return self.classifier.out_features

    def forward(self, images: Tensor, heads: Sequence[str] = (CLASSIFIER,)) -> Output:
        """Return the features, and what the heads make of them.

        Args:
            images: Normalised images, shape ``(B, C, H, W)``, floating; where :attr:`reads_features` is true also
                features, ``(B, D)``, that were computed before.
            heads: The names of the heads.

        Returns:
            Features ``(B, D)``, and the heads' outputs, at least float32, under autocast too.

        Raises:
            UserError: The extractor's features are not D numbers for each image.
        """
        is_features = self.reads_features and images.ndim == 2
        features: Tensor = images if is_features else self.extractor(images)
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise UserError(
                f"the extractor gives features of shape {_shape(features)} and the network has num_features="
                f"{self.num_features}: give {_advice(features)}"
            )
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return Output(features, {name: self.through_head(name, features) for name in heads})

    def through_head(self, name: str, features: Tensor) -> Tensor:
        """Return what a head makes of features, in at least float32 under autocast too.

        The logits of a linear head are computed so: they are compared with thresholds.

        Args:
            name: The name of the head.
            features: What the head reads, ``(B, D)``.
        """
        head = self.get_submodule(name)
        if isinstance(head, nn.Linear):
            return linear_float32(features, head.weight, head.bias)
        out: Tensor = head(features)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def whole_state(self) -> dict[str, Tensor]:
        """Return every tensor of the network by name, for other programs."""
        return dict(self.state_dict())

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return every parameter once, by the group whose loss it learns from.

        Returns:
            ``extractor``: theta; and a group for each head, first ``classifier``: W, b. Each is a list of (name,
            parameter) with the names of ``named_parameters()``.
        """
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in (EXTRACTOR, *self.heads)}
        for name, parameter in self.named_parameters():
            groups[name.partition(".")[0]].append((name, parameter))
        return groups

    def layer_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Return every parameter once, by the part of the network that it is in, from input to output.

        The extractor's parts are its children; a child that only holds a row of blocks of layers
        (``nn.Sequential`` or ``nn.ModuleList`` of such) is looked into, and so is an only child. A row that is called
        ``blocks``, ``layers``, ``stages`` or ``features``, as that of a vision transformer is, has a part for each of
        its blocks. The heads follow.

        Returns:
            Name of the part, without ``extractor.`` in front where that is clear, to (name, parameter) as
            in :meth:`parameter_groups`. A wide residual network has ``stem``, ``groups.0``, ``groups.1``, ...,
            ``activation``, ``classifier``; a ResNet-50 ``conv1``, ``bn1``, ``layer1``, ..., ``classifier``; a vision
            transformer ``extractor`` (its tokens and positions), ``patch_embed``, ``blocks.0``, ``blocks.1``, ...,
            ``norm``, ``classifier``.

        Example:
            >>> from layermatch.networks import wrn_small
            >>> list(wrn_small(num_classes=10).layer_groups())
            ['stem', 'groups.0', 'groups.1', 'groups.2', 'activation', 'classifier']
        """
        heads = list(self.heads)
        parts = [*_parts(self.extractor, EXTRACTOR), *heads]
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

    def depths(self) -> dict[str, int]:
        """Return how deep each of :meth:`layer_groups` is, for learning rates that fall from output to input.

        Returns:
            Name of the part to its depth: 0 for what comes before the first block (a stem, the embedding of patches),
            1, 2, ... for the blocks, and one more for what comes after the last, the heads among it. A network without
            such blocks has its extractor's parts as blocks, from 0.

        Example:
            >>> from layermatch.networks import wrn_small
            >>> wrn_small(num_classes=10).depths()
            {'stem': 0, 'groups.0': 1, 'groups.1': 2, 'groups.2': 3, 'activation': 4, 'classifier': 4}
        """
        names, heads = list(self.layer_groups()), list(self.heads)
        parts, heads = [n for n in names if n not in heads], [n for n in names if n in heads]
        blocks = [name for name in parts if self.is_block(name)]
        if not blocks:
            return dict(zip(parts, range(len(parts)), strict=True)) | dict.fromkeys(heads, len(parts))
        found, depth = {}, 0
        for name in parts:
            depth += name in blocks
            found[name] = depth if name in blocks or depth < len(blocks) else len(blocks) + 1
        return found | dict.fromkeys(heads, len(blocks) + 1)

    def is_block(self, part: str) -> bool:
        """Return whether a part of the extractor is one of a row, as its place or its name says."""
        above, _, last = part.rpartition(".")
        row = self.extractor.get_submodule(above.removeprefix(EXTRACTOR).removeprefix(".")) if above else None
        return isinstance(row, nn.Sequential | nn.ModuleList) or _NUMBERED.fullmatch(last) is not None


#: A row of blocks that is called one of these is divided into its blocks.
_ROWS = frozenset({"blocks", "features", "layers", "stages"})

#: Blocks that are no row of their own, as ``layer1`` to ``layer4`` of a ResNet.
_NUMBERED = re.compile(r"(block|denseblock|layer|stage)_?\d+")


def _parts(module: nn.Module, name: str) -> list[str]:
    """Name the parts that a module's parameters are divided into; itself where it has some of its own."""
    children = [(f"{name}.{key}", child) for key, child in module.named_children() if _has_parameters(child)]
    own = [name] if next(module.parameters(recurse=False), None) is not None else []
    if not children:
        return [name]
    if len(children) == 1 and not own:
        return _parts(children[0][1], children[0][0])
    parts = own
    for child_name, child in children:
        if _is_named_row(child_name, child):
            parts += [f"{child_name}.{key}" for key, block in child.named_children() if _has_parameters(block)]
        else:
            holds_row = any(_is_named_row(key, grandchild) for key, grandchild in child.named_children())
            parts += _parts(child, child_name) if holds_row or _is_row_of_blocks(child) else [child_name]
    return parts


def _shape(features: Tensor) -> str:
    return f"({', '.join(['B', *map(str, features.shape[1:])])})"


def _advice(features: Tensor) -> str:
    return f"num_features={features.shape[1]}" if features.ndim == 2 else "a module whose features are (B, D)"


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _is_named_row(name: str, module: nn.Module) -> bool:
    """Return whether a module is a row of several blocks, by its name too: a row of single layers is none."""
    if name.rpartition(".")[2] not in _ROWS or not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    return sum(_has_parameters(block) and any(True for _ in block.children()) for block in module) > 1


def _is_row_of_blocks(module: nn.Module) -> bool:
    row = (nn.Sequential, nn.ModuleList)
    return isinstance(module, row) and all(isinstance(child, row) for child in module.children())


def linear_head(num_features: int, num_outputs: int) -> nn.Linear:
    """Return a linear head that starts as FixMatch's classifier: Xavier-normal weight, zero bias.

    Args:
        num_features: D.
        num_outputs: The width of its output.
    """
    head = nn.Linear(num_features, num_outputs)
    nn.init.xavier_normal_(head.weight)
    nn.init.zeros_(head.bias)
    return head
