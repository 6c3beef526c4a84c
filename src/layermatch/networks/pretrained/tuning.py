"""How much of a pretrained extractor learns: all of it, nothing, its last blocks, or small modules beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from layermatch.errors import UserError, check_choice, check_number
from layermatch.networks.network import EXTRACTOR, Network
from layermatch.networks.pretrained.adapters import ADAPTER, Adapter, attach, calls_of

__all__ = ["AdaptFormerOptions", "Learning", "LoraOptions", "Tuning"]

#: What may learn.
TUNES = ("full", "frozen", "last_n", "lora", "adaptformer")

#: What an MLP is called.
MLPS = frozenset({"mlp", "ffn"})

#: The parts of a block whose linear layers LoRA is added to, and the names of the modules that these are.
PLACES: Mapping[str, frozenset[str] | None] = {
    "attention": frozenset({"attn", "attention", "self_attn", "self_attention"}),
    "mlp": MLPS,
    "all": None,
}


@dataclass(frozen=True)
class LoraOptions:
    """The settings of LoRA (Hu et al. 2021).

    Args:
        rank: r, at least 1.
        alpha: What the added weight is multiplied by, times r; above 0.
        layers: ``attention``, ``mlp`` or ``all``: the linear layers of each block that it is added to.

    Raises:
        UserError: A value is not legal.
    """

    rank: int = 4
    alpha: float = 4.0
    layers: str = "attention"

    def __post_init__(self) -> None:
        check_number("lora.rank", self.rank, low=1, integer=True)
        check_number("lora.alpha", self.alpha, low=0, low_open=True)
        check_choice("lora.layers", self.layers, PLACES)


@dataclass(frozen=True)
class AdaptFormerOptions:
    """The settings of AdaptFormer (Chen et al. 2022).

    Args:
        width: The numbers between the two projections, at least 1.
        scale: What its output is multiplied by, above 0.

    Raises:
        UserError: A value is not legal.
    """

    width: int = 16
    scale: float = 0.1

    def __post_init__(self) -> None:
        check_number("adaptformer.width", self.width, low=1, integer=True)
        check_number("adaptformer.scale", self.scale, low=0, low_open=True)


class Learning(NamedTuple):
    """What of an extractor learns.

    Attributes:
        names: The names of its parameters that learn; None is all of them.
        passed_over: The layers that an adapter was asked for and cannot be added to, most of them as the network reads
            their weights and does not call them; each as its block names it.
    """

    names: frozenset[str] | None
    passed_over: tuple[str, ...] = ()


def _options(kind: Any, name: str, given: object) -> Any:
    names = [field.name for field in fields(kind)]
    if given is None:
        return kind()
    if not isinstance(given, Mapping) or set(given) - set(names):
        raise UserError(f"{name}={given!r} is not legal: give {{{', '.join(f'{key}: VALUE' for key in names)}}}")
    return kind(**given)


@dataclass(frozen=True)
class Tuning:
    """What of an extractor learns, beside the heads, which always do.

    Args:
        tune: ``full``: everything; ``frozen``: nothing; ``last_n``: the last blocks and what follows them; ``lora`` and
            ``adaptformer``: modules beside the frozen ones, see
            :class:`~layermatch.networks.pretrained.adapters.Adapter`.
        num_last: The blocks that learn with ``last_n``, at least 1.
        lora: The settings of LoRA.
        adaptformer: The settings of AdaptFormer.
    """

    tune: str
    num_last: int
    lora: LoraOptions
    adaptformer: AdaptFormerOptions

    @classmethod
    def of(cls, *, tune: object, num_last: object, lora: object, adaptformer: object) -> Self:
        """Make it of settings.

        Args:
            tune: What learns.
            num_last: The blocks that learn with ``last_n``.
            lora: A mapping of :class:`LoraOptions`; None is all defaults.
            adaptformer: A mapping of :class:`AdaptFormerOptions`; None is all defaults.

        Raises:
            UserError: A value is not legal.
        """
        check_choice("tune", tune, TUNES)
        check_number("num_last", num_last, low=1, integer=True)
        return cls(
            str(tune),
            int(num_last),  # type: ignore[call-overload]
            _options(LoraOptions, "lora", lora),
            _options(AdaptFormerOptions, "adaptformer", adaptformer),
        )

    @torch.no_grad()
    def apply(self, extractor: nn.Module, images: Tensor, *, title: str) -> Learning:
        """Add what is to be added to an extractor, and say what of it learns.

        Args:
            extractor: The extractor, in evaluation mode; adapters are added to it.
            images: Images that it reads, to see which of its modules they go through.
            title: What the extractor is, for messages.

        Raises:
            UserError: The extractor has no such blocks or layers.
        """
        if self.tune == "full":
            return Learning(None)
        if self.tune == "frozen":
            return Learning(frozenset())
        if self.tune == "last_n":
            return Learning(self._last(extractor, title=title))
        places = self._places(extractor)
        called = calls_of(extractor, images, places)
        passed_over: list[str] = []
        for name, module in places.items():
            if name in called and not isinstance(module, nn.Sequential):
                attach(module, self._adapter(module))
            else:
                passed_over.append(".".join(name.split(".")[-2:]))
        learning = frozenset(name for name, _ in extractor.named_parameters() if f".{ADAPTER}." in name)
        if not learning:
            raise UserError(f"tune={self.tune} finds no place in {title}: {self._remedy()}")
        return Learning(learning, tuple(dict.fromkeys(passed_over)))

    def _remedy(self) -> str:
        if self.tune == "adaptformer":
            return "its blocks have no MLP of their own: give tune=last_n, or a vision transformer of timm"
        others = ", ".join(place for place in PLACES if place != self.lora.layers)
        return (
            f"no linear layer of its blocks is called for lora.layers={self.lora.layers}: give lora.layers as one of "
            f"{others}, tune=last_n, or a vision transformer of timm"
        )

    def _last(self, extractor: nn.Module, *, title: str) -> frozenset[str]:
        network = Network(extractor, num_features=1)
        depths, groups = network.depths(), network.layer_groups()
        blocks = {name: depth for name, depth in depths.items() if network.is_block(name)} or depths
        # Without blocks the parts of the extractor are counted, from 0.
        count, top = len(set(blocks.values())), max(blocks.values())
        if self.num_last > count:
            raise UserError(
                f"num_last={self.num_last} is not legal: {title} has {count} blocks: give a number up to that, or "
                "tune=full"
            )
        names = [name for group, named in groups.items() if depths[group] > top - self.num_last for name, _ in named]
        return frozenset(name.removeprefix(f"{EXTRACTOR}.") for name in names)

    def _places(self, extractor: nn.Module) -> dict[str, nn.Module]:
        """Return the modules of the blocks that an adapter could be added to, by name."""
        network = Network(extractor, num_features=1)
        blocks = tuple(f"{name}." for name in network.layer_groups() if network.is_block(name))
        inside = {name: module for name, module in extractor.named_modules() if name.startswith(blocks)}
        if self.tune == "adaptformer":
            mlps = {name: module for name, module in inside.items() if name.rpartition(".")[2] in MLPS}
            return {name: module for name, module in mlps.items() if _linears(module)}
        linear = {name: module for name, module in inside.items() if isinstance(module, nn.Linear)}
        among = PLACES[self.lora.layers]
        return {name: module for name, module in linear.items() if among is None or among & set(name.split("."))}

    def _adapter(self, module: nn.Module) -> Adapter:
        first, *_, last = [*_linears(module), *_linears(module)]
        num_in, num_out = first.in_features, last.out_features
        if self.tune == "lora":
            rank = self.lora.rank
            return Adapter(num_in, num_out, width=rank, scale=self.lora.alpha / rank, is_linear=True)
        options = self.adaptformer
        return Adapter(num_in, num_out, width=options.width, scale=options.scale, is_linear=False)

    @property
    def title(self) -> str:
        """What learns, in words."""
        return {
            "full": "the whole network",
            "frozen": "the heads alone; the extractor is frozen",
            "last_n": f"the last {self.num_last} block{'s' * (self.num_last > 1)} and what follows, and the heads",
            "lora": f"LoRA of rank {self.lora.rank} on {self.lora.layers}, and the heads",
            "adaptformer": f"AdaptFormer of width {self.adaptformer.width}, and the heads",
        }[self.tune]


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [each for each in module.modules() if isinstance(each, nn.Linear)]
