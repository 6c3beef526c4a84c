"""The settings of a run: a composed configuration, parsed once into sections whose types are known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

from layermatch.components import check_keys, check_present, find_target, make, option_names, section_of_errors
from layermatch.data import SemiSupervisedData
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.training import SemiSupervisedModule

__all__ = [
    "OF_WEIGHTS",
    "SECTIONS",
    "AlgorithmSettings",
    "CheckpointSettings",
    "Component",
    "DataSettings",
    "Settings",
    "TrainerSettings",
    "check_sections",
    "parse_plugins",
]

SELECTIONS = ("last", "best_val")

#: The value of `data.mean`, `data.std` and `data.image_size` that leaves them to the pretrained weights.
OF_WEIGHTS = "weights"

#: The sections that name one class or function each.
COMPONENTS = ("pseudo_labels", "layerwise", "model", "optimizer", "schedule", "logger")

#: What the run gives the training module and the data module beside their settings.
OF_MODULE = option_names(SemiSupervisedModule) - {
    "network", "method", "optimizer", "schedule", "log_every", "layer_decay", "open_teacher"
}  # fmt: skip
GIVEN_TO_DATA = {
    "source", "weak", "strong", "medium", "local", "views", "num_batches", "seed", "channels_last", "device", "wanted",
}  # fmt: skip
OF_DATA = option_names(SemiSupervisedData) - GIVEN_TO_DATA


@dataclass(frozen=True)
class Component:
    """A section that names a class or a function and gives its arguments.

    Args:
        section: The name of the section, for errors.
        options: Its keys, ``_target_`` among them.
        plugins: The packages that ``_target_`` may name beside this one; see :mod:`layermatch.components`.
    """

    section: str
    options: Mapping[str, Any]
    plugins: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the section has no keys, as ``pseudo_labels=none`` has none."""
        return not self.options

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys without ``_target_``."""
        return {key: value for key, value in self.options.items() if key != "_target_"}

    def find(self) -> Any:
        """Return the class or function that ``_target_`` names.

        Raises:
            UserError: It names nothing, or something that is not trusted.
        """
        return find_target(f"{self.section}._target_", self.options.get("_target_"), plugins=self.plugins)

    def make(self, **given: Any) -> Any:
        """Call it.

        Args:
            **given: Arguments that are no settings.

        Raises:
            UserError: A key or a value is not legal.
        """
        return make(self.section, self.options, plugins=self.plugins, **given)


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written, and which one is tested.

    Args:
        every_n_steps: Optimizer steps between two checkpoints, at least 1.
        keep: The newest checkpoints that are kept, at least 1.
        selection: ``last`` tests the final weights, ``best_val`` those of the best evaluation.

    Raises:
        UserError: A value is not legal.
    """

    every_n_steps: int
    keep: int
    selection: str

    def __post_init__(self) -> None:
        check_number("checkpoint.every_n_steps", self.every_n_steps, low=1, integer=True)
        check_number("checkpoint.keep", self.keep, low=1, integer=True)
        check_choice("checkpoint.selection", self.selection, SELECTIONS)


@dataclass(frozen=True)
class TrainerSettings:
    """What a run computes on, and for how long; see :func:`~layermatch.trainer.make_trainer`.

    Raises:
        UserError: The number of steps is not legal; the rest is checked where it is used.
    """

    accelerator: str
    strategy: str
    devices: int
    num_nodes: int
    max_steps: int
    precision: str
    channels_last: bool | str
    sync_batchnorm: bool
    deterministic: bool
    log_every: int
    limit_eval_batches: int | None
    wait: float
    exchange: str = "full"

    def __post_init__(self) -> None:
        check_number("trainer.max_steps", self.max_steps, low=1, integer=True)


@dataclass(frozen=True)
class AlgorithmSettings:
    """The method, and what the training step does whatever the method.

    Args:
        name: The name in tables and on dashboards.
        method: The component that makes the method.
        module: Options of :class:`~layermatch.training.SemiSupervisedModule`.
    """

    name: str
    method: Component
    module: Mapping[str, Any]

    @property
    def accumulate(self) -> Any:
        """The batches that make an optimizer step."""
        return self.module.get("accumulate", 1)

    @property
    def imwa(self) -> Any:
        """The episodes of the run, as they are given; None has none."""
        return self.module.get("imwa")

    @classmethod
    def parse(cls, section: Mapping[str, Any], plugins: tuple[str, ...]) -> Self:
        """Tell the method's options from the training step's."""
        find_target("algorithm._target_", section.get("_target_"), plugins=plugins)
        check_present("algorithm", section, {"name"})
        of_method = {key: value for key, value in section.items() if key not in OF_MODULE | {"name"}}
        of_module = {key: value for key, value in section.items() if key in OF_MODULE}
        return cls(section["name"], Component("algorithm", of_method, plugins), of_module)


@dataclass(frozen=True)
class DataSettings:
    """The source of the images, and what the data module does with them.

    Args:
        source: The component that makes the source: ``data.source``, and the keys of ``data`` that the source has, such
            as ``data.root``.
        module: Options of :class:`~layermatch.data.SemiSupervisedData`.

    Raises:
        UserError: A key belongs to neither.
    """

    source: Component
    module: Mapping[str, Any]

    @classmethod
    def parse(cls, section: Mapping[str, Any], plugins: tuple[str, ...]) -> Self:
        """Tell the source's options from the data module's."""
        if "source" not in section:
            raise UserError("data.source is not given: choose another file of conf/data")
        nested = section.get("source")
        if not isinstance(nested, Mapping):
            raise UserError(f"data.source={nested!r} is not legal: give data.source._target_=PACKAGE.CLASS")
        target = find_target("data.source._target_", nested.get("_target_"), plugins=plugins)
        of_source = option_names(target)
        check_keys("data", section.keys() - {"source"}, of_source | OF_DATA)
        check_keys("data.source", nested.keys() - {"_target_"}, of_source)
        shared = {key: value for key, value in section.items() if key in of_source}
        module = {key: value for key, value in section.items() if key in OF_DATA}
        return cls(Component("data", {**nested, **shared}, plugins), module)

    @property
    def split(self) -> Any:
        """The split that is used again; None draws one."""
        return self.module.get("split")

    @property
    def val_from(self) -> Any:
        """The part that validation images come from."""
        return self.module["val_from"]

    @property
    def storage(self) -> Any:
        """The place where images are kept."""
        return self.module["storage"]

    @property
    def num_workers(self) -> Any:
        """The number of processes that read images; None is a choice of ours."""
        return self.module.get("num_workers")

    @property
    def is_normalised_by_weights(self) -> bool:
        """Whether mean and deviation are left to the pretrained weights."""
        return self.module.get("mean") == self.module.get("std") == OF_WEIGHTS

    def unverified(self) -> Self:
        """Return the same without comparing the sums of the source's files, which another process has done."""
        if "verify" not in self.source.options:
            return self
        source = replace(self.source, options={**self.source.options, "verify": False})
        return replace(self, source=source)

    def named_in_errors(self) -> AbstractContextManager[None]:
        """Name the settings of ``data`` in errors with their section; see :func:`~layermatch.components.make`."""
        return section_of_errors("data", {**self.source.arguments, **self.module})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run.

    Attributes are the sections and keys of ``conf/run.yaml``, of which runs of an earlier version lack those with a
    default; ``raw`` is the composed configuration as plain containers, as it is written to ``config.yaml`` and compared
    with that of other runs.
    """

    name: str
    seed: int
    run_dir: str
    ckpt_path: str | None
    eval_every: int
    compile: bool | str
    figures: bool = True
    plugins: tuple[str, ...]
    checkpoint: CheckpointSettings
    trainer: TrainerSettings
    algorithm: AlgorithmSettings
    data: DataSettings
    views: Mapping[str, Any]
    pseudo_labels: Component
    layerwise: Component
    model: Component
    optimizer: Component
    schedule: Component
    logger: Component
    raw: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.compile, bool):
            check_choice("compile", self.compile, ("auto", "true", "false"))
        check_bool("figures", self.figures)
        check_number("seed", self.seed, low=0, high=2**32 - 1, integer=True)
        check_number("eval_every", self.eval_every, low=1, integer=True)
        if self.checkpoint.selection == "best_val" and self.eval_every > self.trainer.max_steps:
            raise UserError(
                "checkpoint.selection=best_val needs an evaluation: give eval_every below trainer.max_steps"
            )

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Self:
        """Parse a composed configuration.

        Args:
            raw: The configuration, as plain containers: section -> key -> value.

        Raises:
            UserError: A key is unknown or missing, or a value is not legal.
        """
        check_keys("", raw, SECTIONS)
        check_sections(raw)
        plugins = parse_plugins(raw["plugins"])
        parsed: dict[str, Any] = dict(raw)
        for name in COMPONENTS:
            parsed[name] = Component(name, raw[name], plugins)
        parsed["plugins"] = plugins
        parsed["checkpoint"] = _section(CheckpointSettings, "checkpoint", raw["checkpoint"])
        parsed["trainer"] = _section(TrainerSettings, "trainer", raw["trainer"])
        parsed["algorithm"] = AlgorithmSettings.parse(raw["algorithm"], plugins)
        parsed["data"] = DataSettings.parse(raw["data"], plugins)
        return cls(**parsed, raw=raw)


#: The sections and keys of a configuration.
SECTIONS = frozenset(field.name for field in fields(Settings)) - {"raw"}


def _section(kind: Any, name: str, section: Mapping[str, Any]) -> Any:
    check_keys(name, section, {field.name for field in fields(kind)})
    check_present(name, section, _needed(kind))
    return kind(**section)


def _needed(kind: Any) -> set[str]:
    """Return the keys that a section must have; runs of an earlier version have none of a later one's."""
    return {field.name for field in fields(kind) if field.default is MISSING}


def check_sections(raw: Mapping[str, Any]) -> None:
    """Refuse a configuration that lacks a section, or what is read of it before it is parsed.

    Args:
        raw: The configuration, as plain containers.

    Raises:
        UserError: Something is missing, or is no section.
    """
    if missing := sorted((SECTIONS & _needed(Settings)) - raw.keys()):
        raise UserError(f"{missing[0]} is missing: give {missing[0]}=VALUE; ~{missing[0]} takes it away")
    for name in ("checkpoint", "trainer", "algorithm", "data", "views", *COMPONENTS):
        if not isinstance(raw[name], Mapping):
            raise UserError(f"{name}={raw[name]!r} is not legal: choose one of the files of conf/{name}")
    check_present("trainer", raw["trainer"], _needed(TrainerSettings))


def parse_plugins(given: object) -> tuple[str, ...]:
    """Return the packages of the user that are trusted.

    Args:
        given: The setting ``plugins``.

    Raises:
        UserError: It is no list of names.

    Example:
        >>> parse_plugins(["mine"])
        ('mine',)
    """
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UserError(f"plugins={given!r} is not legal: give a list of package names, plugins=[NAME]")
    return tuple(given)
