"""From a composed configuration to the objects of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from layermatch.augment import StrongView, WeakView
from layermatch.dashboards import dashboards_of
from layermatch.data import SemiSupervisedData, Split, Views
from layermatch.errors import UserError, check_bool, check_choice, check_number
from layermatch.methods import Method
from layermatch.networks import Network
from layermatch.settings import check_keys, find_target, make, option_names, section_of_errors
from layermatch.trainer import Device, choose_device, make_trainer
from layermatch.training import SemiSupervisedModule, problem_of

__all__ = [
    "RunParts",
    "Settings",
    "build_algorithm",
    "build_data",
    "build_parts",
    "build_trainer",
    "check_settings",
    "learning_rate_at",
]

#: A composed configuration as plain containers: section -> key -> value.
Settings = Mapping[str, Any]

SECTIONS = {
    "algorithm", "checkpoint", "ckpt_path", "compile", "data", "eval_every", "layerwise", "logger", "model", "name",
    "optimizer", "plugins", "pseudo_labels", "run_dir", "schedule", "seed", "trainer", "views",
}  # fmt: skip
SELECTIONS = ("last", "best_val")

#: The sections that describe a part of a method, and the method's argument that takes it.
PARTS_OF_METHODS = {"layerwise": "rule", "pseudo_labels": "policy"}


@dataclass(frozen=True)
class RunParts:
    """What a run is made of, before there is a Trainer.

    Attributes:
        data: set up.
        algorithm: The LightningModule, with its network and method.
        device: what it computes on.
    """

    data: SemiSupervisedData
    algorithm: SemiSupervisedModule
    device: Device


def check_settings(settings: Settings) -> None:
    """Refuse what no section's own constructor sees.

    Raises:
        UserError: an unknown key at the top or in ``checkpoint``, or a value out of range there.
    """
    check_keys("", settings, SECTIONS)
    if missing := sorted(SECTIONS - settings.keys()):
        raise UserError(f"{missing[0]} is missing: give {missing[0]}=VALUE; ~{missing[0]} takes it away")
    check_bool("compile", settings["compile"])
    check_number("seed", settings["seed"], low=0, high=2**32 - 1, integer=True)
    if not isinstance(settings["plugins"], list):
        raise UserError(f"plugins={settings['plugins']!r} is not legal: give a list of package names, plugins=[NAME]")
    checkpoint = settings["checkpoint"]
    check_keys("checkpoint", checkpoint, ("every_n_steps", "keep", "selection"))
    check_number("checkpoint.every_n_steps", checkpoint["every_n_steps"], low=1, integer=True)
    check_number("checkpoint.keep", checkpoint["keep"], low=1, integer=True)
    check_choice("checkpoint.selection", checkpoint["selection"], SELECTIONS)
    check_number("eval_every", settings["eval_every"], low=1, integer=True)
    check_number("trainer.max_steps", settings["trainer"]["max_steps"], low=1, integer=True)
    if checkpoint["selection"] == "best_val" and settings["eval_every"] > settings["trainer"]["max_steps"]:
        raise UserError("checkpoint.selection=best_val needs an evaluation: give eval_every below trainer.max_steps")


def build_device(settings: Settings) -> Device:
    """What the run computes on."""
    trainer = settings["trainer"]
    names = ("accelerator", "precision", "channels_last")
    return choose_device(**{name: trainer[name] for name in names})


def build_data(settings: Settings, *, device: Device, views: Views, split: Split | None = None) -> SemiSupervisedData:
    """The LightningDataModule.

    The section ``data`` holds the source's options and the data module's side by side; each takes its own.

    Raises:
        UserError: a value or a key is not legal.
    """
    options = dict(settings["data"])
    source_class = find_target("data.source", options.pop("source", None), plugins=settings["plugins"])
    given = {
        "weak": None, "strong": None, "seed": settings["seed"], "views": views,
        "channels_last": device.channels_last, "device": device.torch_device,
    }  # fmt: skip
    of_source, of_module = option_names(source_class), option_names(SemiSupervisedData) - {"source", *given}
    check_keys("data", options, of_source | of_module)
    kinds = dict(settings["views"])
    check_keys("views", kinds, option_names(StrongView))
    with section_of_errors("views", kinds):
        given["weak"] = WeakView(flip=kinds["flip"], pad=kinds["pad"])
        given["strong"] = StrongView(**kinds)
    if split is not None:
        # What the section says of labels was for drawing it.
        options |= {"split": split, "num_labels": None, "num_val": 0, "fold": None}
    source = source_class(**{key: value for key, value in options.items() if key in of_source})
    return SemiSupervisedData(source, **{k: v for k, v in options.items() if k in of_module}, **given)


def build_network(settings: Settings, *, data: SemiSupervisedData) -> Network:
    """The network, for the classes and channels of the data.

    Raises:
        UserError: a value or a key is not legal.
    """
    network: Network = make(
        "model",
        settings["model"],
        plugins=settings["plugins"],
        num_classes=len(data.classes),
        in_channels=data.image_shape[0],
    )
    return network


def build_method(settings: Settings) -> Method:
    """The method, with the policy and the rule that it takes.

    Raises:
        UserError: A value or a key is not legal.
    """
    plugins = settings["plugins"]
    options = {key: value for key, value in settings["algorithm"].items() if key not in _module_options()}
    options.pop("name")
    target = find_target("algorithm._target_", options["_target_"], plugins=plugins)
    given: dict[str, Any] = {}
    for section, argument in PARTS_OF_METHODS.items():
        if argument in option_names(target):
            given[argument] = make(section, settings[section], plugins=plugins)
        elif settings[section]:
            keys = ", ".join(f"{section}.{key}" for key in settings[section])
            name = settings["algorithm"]["name"]
            raise UserError(f"algorithm={name} reads no {section}, but {keys} is set: add {section}=none")
    method: Method = make("algorithm", options, plugins=plugins, **given)
    if not isinstance(method, Method):
        raise UserError(f"algorithm._target_={options['_target_']} is not a Method")
    return method


def build_algorithm(settings: Settings, *, data: SemiSupervisedData, method: Method) -> SemiSupervisedModule:
    """The LightningModule with its network and method, ready for the data.

    Raises:
        UserError: A value or a key is not legal.
    """
    names = _module_options()
    options = {key: value for key, value in settings["algorithm"].items() if key in names}
    network = build_network(settings, data=data)
    with section_of_errors("algorithm", settings["algorithm"]), section_of_errors("trainer", ["log_every"]):
        algorithm = SemiSupervisedModule(
            network,
            method,
            optimizer=_optimizer_factory(settings),
            schedule=_schedule(settings),
            log_every=settings["trainer"]["log_every"],
            **options,
        )
        max_steps = settings["trainer"]["max_steps"]
        algorithm.prepare(problem_of(data, network, method, max_steps=max_steps))
    return algorithm


def _module_options() -> set[str]:
    """What the section ``algorithm`` says of the training step, whatever the method."""
    return option_names(SemiSupervisedModule) - {"network", "method", "optimizer", "schedule", "log_every"}


def _optimizer_factory(settings: Settings) -> partial[torch.optim.Optimizer]:
    options = dict(settings["optimizer"])
    target = find_target("optimizer._target_", options.pop("_target_", None), plugins=settings["plugins"])
    check_keys("optimizer", options, option_names(target) - {"params"})
    try:  # its constructor checks the values; here on a parameter of no one, before any work
        target([torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error
    return partial(target, **options)


def _schedule(settings: Settings) -> partial[float]:
    options = dict(settings["schedule"])
    target = find_target("schedule._target_", options.pop("_target_", None), plugins=settings["plugins"])
    check_keys("schedule", options, option_names(target) - {"step", "max_steps"})
    schedule = partial(target, **options)
    with section_of_errors("schedule", options):
        schedule(0, 1)  # checks the options before any work
    return schedule


def learning_rate_at(settings: Settings, step: int) -> float:
    """The learning rate that a run has at a step.

    Args:
        settings: the composed configuration.
        step: optimizer steps made so far.

    Raises:
        UserError: a value or a key is not legal.
    """
    optimizer = _optimizer_factory(settings)([torch.zeros(1, requires_grad=True)])
    factor: float = _schedule(settings)(step, settings["trainer"]["max_steps"])
    return float(optimizer.param_groups[0]["lr"]) * factor


def _check_selection(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuse to choose a checkpoint by validation images where there are none, whatever said how many to hold out."""
    if settings["checkpoint"]["selection"] == "best_val" and data.validation is None:
        given = settings["data"].get("split")
        remedy = "a data.split that holds some out" if given else "data.num_val above 0"
        raise UserError(
            f"checkpoint.selection=best_val needs validation images, and there are none: give {remedy}, or "
            "checkpoint.selection=last"
        )


def build_parts(settings: Settings, *, split: Split | None = None) -> RunParts:
    """Everything but the Trainer; reads the data set.

    Args:
        settings: the composed configuration.
        split: which images are labelled and held out; None does as ``data`` says.

    Raises:
        UserError: anything in the configuration is not legal.
    """
    check_settings(settings)
    device = build_device(settings)
    method = build_method(settings)
    data = build_data(settings, device=device, views=method.views, split=split)
    data.setup()
    _check_selection(settings, data)
    torch.manual_seed(settings["seed"])
    algorithm = build_algorithm(settings, data=data, method=method)
    if device.channels_last:
        algorithm = algorithm.to(memory_format=torch.channels_last)
    if settings["compile"]:
        from torch._functorch import config as functorch_config

        check_compiler(device)
        # By default a compiled backward overwrites what it has read, and a second one through the same graph is
        # refused: layers/* and rules that take gradients apart need one.
        functorch_config.donated_buffer = False
        algorithm.network.compile()  # in place: the names in checkpoints stay
    return RunParts(data, algorithm, device)


def check_compiler(device: Device) -> None:
    """Refuse to compile where nothing can.

    Args:
        device: what the network will run on.

    Raises:
        UserError: there is no compiler for it.
    """
    needed = {
        "gpu": ("triton", find_spec("triton") is not None),
        "cpu": ("a C++ compiler", any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "cl"))),
    }
    name, there = needed.get(device.accelerator, ("torch.compile", False))
    if not there:
        raise UserError(f"compile=true needs {name} for {device.accelerator}, and there is none: give compile=false")


def build_loggers(settings: Settings, *, run_dir: Path, first_step: int) -> list[Logger]:
    """The loggers of a run.

    Raises:
        UserError: a value is not legal, or does not go with the other settings.
    """
    loggers: list[Logger] = make(
        "logger", settings["logger"], plugins=settings["plugins"], run_dir=run_dir, first_step=first_step
    )
    for dashboard in dashboards_of(loggers):
        dashboard.check(settings)
    return loggers


def build_trainer(settings: Settings, *, run_dir: Path, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    """The Lightning Trainer.

    Raises:
        UserError: a value is not legal, or the devices are not there.
    """
    options = dict(settings["trainer"])
    given = {
        "eval_every": settings["eval_every"],
        "accumulate": settings["algorithm"]["accumulate"],
        "run_dir": run_dir,
        "callbacks": callbacks,
        "loggers": loggers,
    }
    check_keys("trainer", options, option_names(make_trainer) - set(given))
    return make_trainer(**options, **given)
