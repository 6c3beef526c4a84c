"""The way from a composed configuration to the objects of a run."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from layermatch.augment import LocalView, StrongView, WeakView
from layermatch.components import check_keys, check_present, option_names, section_of_errors
from layermatch.dashboards import dashboards_of
from layermatch.data import SemiSupervisedData, Split, Views
from layermatch.data.ramp import reduced
from layermatch.data.sources import Source
from layermatch.errors import UserError, check_number
from layermatch.methods import Method
from layermatch.networks import Network
from layermatch.networks.pretrained import Wanted, wanted_input
from layermatch.parts import OpenTeacher, Problem
from layermatch.parts.stages import rate_at
from layermatch.policies import Policy, aligned
from layermatch.settings import OF_MODULE, OF_WEIGHTS, Component, DataSettings, Settings
from layermatch.trainer import Device, choose_device, make_trainer
from layermatch.training import SemiSupervisedModule, problem_of
from layermatch.training.episodes import Episodes, place_in_run
from layermatch.training.features import check_learns_from_features
from layermatch.training.recipe import Recipe

__all__ = [
    "RunParts",
    "build_algorithm",
    "build_data",
    "build_loggers",
    "build_method",
    "build_module",
    "build_network",
    "build_parts",
    "build_source",
    "build_trainer",
    "check_steps",
    "learning_rate_at",
]

#: Settings of views that the weak view has, too.
GEOMETRY = ("flip", "pad", "area")

#: What the training module is given of the optimizer's section.
OF_MODULE_IN_OPTIMIZER = frozenset({"layer_decay"})

#: The sections that describe a part of a method, and the method's argument that takes it.
PARTS_OF_METHODS = {"layerwise": "rule", "pseudo_labels": "policy"}


@dataclass(frozen=True)
class RunParts:
    """What a run is made of, before there is a Trainer.

    Attributes:
        data: The data module, set up.
        algorithm: The LightningModule, with its network and method.
        device: The device that the run computes on.
    """

    data: SemiSupervisedData
    algorithm: SemiSupervisedModule
    device: Device


def build_device(settings: Settings) -> Device:
    """Return what the run computes on.

    Raises:
        UserError: A value is not legal, or the accelerator is not there.
    """
    trainer = settings.trainer
    with section_of_errors("trainer", asdict(trainer)):
        return choose_device(
            accelerator=trainer.accelerator, precision=trainer.precision, channels_last=trainer.channels_last
        )


def build_data(settings: Settings, *, device: Device, views: Views, split: Split | None = None) -> SemiSupervisedData:
    """Return the LightningDataModule.

    Args:
        settings: The settings of the run.
        device: The device that the run computes on.
        views: The views that the method asks for.
        split: Which images are labelled and held out; None draws them.

    Raises:
        UserError: A value or a key is not legal.
    """
    of_others = {"medium_ops", "local_side", "local_scale"}
    check_keys("views", settings.views, option_names(StrongView) | of_others)
    check_present("views", settings.views, {"flip", "pad"} | of_others)
    options_of_views = {key: value for key, value in settings.views.items() if key not in of_others}
    with section_of_errors("views", settings.views):
        weak = WeakView(**{name: settings.views[name] for name in GEOMETRY if name in settings.views})
        strong = StrongView(**options_of_views)
        medium_ops = settings.views["medium_ops"]
        check_number("medium_ops", medium_ops, low=0, integer=True)
        medium = strong.with_ops(medium_ops)
        side, scale = settings.views["local_side"], settings.views["local_scale"]
        local = LocalView(flip=settings.views["flip"], side=side, scale=scale)
    given, wanted = _as_weights_want(settings)
    options = dict(given.module)
    if split is not None:
        # What the section says of labels was for drawing it.
        options |= {"split": split, "num_labels": None, "num_val": 0, "fold": None, "imbalance": None}
    elif options.get("split") is not None:
        options["split"] = Split.load(options["split"], name="data.split")
    with settings.data.named_in_errors():
        return SemiSupervisedData(
            given.source.make(),
            **options,
            wanted=wanted,
            weak=weak,
            strong=strong,
            medium=medium,
            local=local,
            views=views,
            num_batches=_num_batches(settings),
            seed=settings.seed,
            channels_last=device.channels_last,
            device=device.torch_device,
        )


def _num_batches(settings: Settings) -> int:
    """Return the batches of the run; what is not legal about them is said where it is used."""
    accumulate = settings.algorithm.accumulate
    return settings.trainer.max_steps * (accumulate if isinstance(accumulate, int) else 1)


def _as_weights_want(settings: Settings) -> tuple[DataSettings, dict[str, Callable[[int], tuple[float, ...]]]]:
    """Return the settings of the data with the image size that pretrained weights want, and their normalisation.

    Raises:
        UserError: Something is left to weights that are not there.
    """
    data = settings.data
    flat = {**data.source.options, **data.module}
    left = [name for name in ("mean", "std", "image_size") if str(flat.get(name)) == OF_WEIGHTS]
    if not left:
        return data, {}
    with section_of_errors("model", settings.model.arguments):
        found = wanted_input(settings.model.find(), settings.model.arguments)
    if found is None:
        raise UserError(
            f"data.{left[0]}={OF_WEIGHTS} needs pretrained weights: give model.weights, or data.{left[0]}=VALUE"
        )
    size = None if settings.model.options.get("resize") is not None else found.image_size
    sizes = {"image_size": size} if "image_size" in left else {}
    source = replace(data.source, options={**data.source.options, **sizes})
    module = {key: None if key in left else value for key, value in data.module.items()}
    wanted: dict[str, Callable[[int], tuple[float, ...]]] = {
        name: partial(_of_channels, found, name) for name in left if name != "image_size"
    }
    return replace(data, source=source, module=module), wanted


def _of_channels(wanted: Wanted, name: str, channels: int) -> tuple[float, ...]:
    numbers: tuple[float, ...] = getattr(wanted.of_channels(channels), name)
    return numbers


def build_source(settings: Settings) -> Source:
    """Return the source of the images.

    Raises:
        UserError: A value or a key is not legal.
    """
    source: Source = _as_weights_want(settings)[0].source.make()
    return source


def build_policy(section: Component) -> Policy:
    """Return the policy, behind the distribution alignment that its section asks for.

    Args:
        section: The section ``pseudo_labels``: a policy's settings, and those of :func:`~layermatch.policies.aligned`.

    Raises:
        UserError: A value or a key is not legal.
    """
    of_alignment = option_names(aligned) - {"policy"}
    check_keys(section.section, section.arguments, option_names(section.find()) | of_alignment)
    options = {key: value for key, value in section.arguments.items() if key in of_alignment}
    policy = replace(section, options={key: section.options[key] for key in section.options.keys() - options}).make()
    with section_of_errors(section.section, options):
        return aligned(policy, **options)


def build_method(settings: Settings) -> Method:
    """Return the method, with the policy and the rule that it takes.

    Raises:
        UserError: A value or a key is not legal.
    """
    component = settings.algorithm.method
    takes = option_names(component.find())
    check_keys("algorithm", component.arguments, (takes - set(PARTS_OF_METHODS.values())) | OF_MODULE | {"name"})
    given: dict[str, Any] = {}
    for name, argument in PARTS_OF_METHODS.items():
        section: Component = getattr(settings, name)
        if argument in takes:
            given[argument] = build_policy(section) if argument == "policy" else section.make()
        elif not section.is_empty:
            keys = ", ".join(f"{name}.{key}" for key in section.options)
            raise UserError(f"algorithm={settings.algorithm.name} reads no {name}, but {keys} is set: add {name}=none")
    method: Method = component.make(**given)
    if not isinstance(method, Method):
        raise UserError(f"algorithm._target_={component.options['_target_']} is not a Method")
    return method


def build_algorithm(
    settings: Settings,
    *,
    data: SemiSupervisedData,
    method: Method,
    problem: Problem | None = None,
    open_teacher: OpenTeacher | None = None,
) -> SemiSupervisedModule:
    """Return the LightningModule with its network and method, ready for the data.

    Args:
        settings: The settings of the run.
        data: The data module, set up.
        method: The method.
        problem: What the method knew of the data where it was trained, whose state it is to have room for; None takes
            the data as they are.
        open_teacher: Reads the network of another run, for methods that learn from one; None where nobody trains.

    Raises:
        UserError: A value or a key is not legal.
    """
    network = build_network(settings.model, num_classes=len(data.classes), image_shape=data.image_shape)
    algorithm = build_module(settings, network=network, method=method, open_teacher=open_teacher)
    with section_of_errors("algorithm", settings.algorithm.module):
        algorithm.prepare(problem or problem_of(data, network, method, max_steps=settings.trainer.max_steps))
    return algorithm


def build_network(model: Component, *, num_classes: int, image_shape: tuple[int, int, int]) -> Network:
    """Return the network that a section describes.

    Args:
        model: The section.
        num_classes: K, at least 2.
        image_shape: ``(C, H, W)`` of the images.

    Raises:
        UserError: A value or a key is not legal.
    """
    channels, side, _ = image_shape
    given = {"num_classes": num_classes, "in_channels": channels}
    if "image_size" in option_names(model.find()):
        given["image_size"] = side
    network: Network = model.make(**given)
    return network


def build_module(
    settings: Settings, *, network: Network, method: Method, open_teacher: OpenTeacher | None = None
) -> SemiSupervisedModule:
    """Return the LightningModule, which has seen no data yet.

    Args:
        settings: The settings of the run.
        network: The network.
        method: The method.
        open_teacher: Reads the network of another run, for methods that learn from one; None where nobody trains.

    Raises:
        UserError: A value or a key is not legal.
    """
    of_optimizer = {key: value for key, value in settings.optimizer.options.items() if key in OF_MODULE_IN_OPTIMIZER}
    with (
        section_of_errors("trainer", ["log_every"]),
        section_of_errors("algorithm", settings.algorithm.module),
        section_of_errors("optimizer", of_optimizer),
    ):
        return SemiSupervisedModule(
            network,
            method,
            optimizer=_optimizer_factory(settings.optimizer),
            schedule=_schedule(settings.schedule),
            log_every=settings.trainer.log_every,
            open_teacher=open_teacher,
            **settings.algorithm.module,
            **of_optimizer,
        )


def _optimizer_factory(section: Component) -> partial[torch.optim.Optimizer]:
    target, options = section.find(), section.arguments
    check_keys("optimizer", options, (option_names(target) - {"params"}) | OF_MODULE_IN_OPTIMIZER)
    options = {key: value for key, value in options.items() if key not in OF_MODULE_IN_OPTIMIZER}
    try:  # its constructor checks the values; here on a parameter of no one, before any work
        target([torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error
    return partial(target, **options)


def _schedule(section: Component) -> partial[float]:
    target, options = section.find(), section.arguments
    check_keys("schedule", options, option_names(target) - {"step", "max_steps"})
    schedule = partial(target, **options)
    with section_of_errors("schedule", options):
        schedule(0, 1)  # checks the options before any work
    return schedule


def learning_rate_at(settings: Settings, step: int) -> float:
    """Return the learning rate that a run has at a step.

    Args:
        settings: The settings of the run.
        step: The optimizer steps made so far.

    Raises:
        UserError: A value or a key is not legal.
    """
    optimizer = _optimizer_factory(settings.optimizer)([torch.zeros(1, requires_grad=True)])
    episodes = Episodes.of(settings.algorithm.imwa)
    number, max_steps = place_in_run(step, settings.trainer.max_steps, episodes)
    factor: float = _schedule(settings.schedule)(number, max_steps)
    factor *= rate_at(build_method(settings).stages, number / max_steps)
    return float(optimizer.param_groups[0]["lr"]) * factor


def _check_selection(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuse to choose a checkpoint by validation images where there are none, whatever said how many to hold out."""
    if settings.checkpoint.selection == "best_val" and data.validation is None:
        given = settings.data.split
        remedy = "a data.split that holds some out" if given else "data.num_val above 0"
        raise UserError(
            f"checkpoint.selection=best_val needs validation images, and there are none: give {remedy}, or "
            "checkpoint.selection=last"
        )


def check_steps(settings: Settings, method: Method) -> None:
    """Refuse steps that count for nothing, of a method whose classifier is computed after the last one.

    Args:
        settings: The settings of the run.
        method: Its method.

    Raises:
        UserError: The run is to make more steps than one.
    """
    if method.solves and settings.trainer.max_steps > 1:
        raise UserError(
            f"trainer.max_steps={settings.trainer.max_steps} is not legal with algorithm={settings.algorithm.name}, "
            "which is solved in one step: give trainer.max_steps=1"
        )


def _check_shares(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuse a batch that the devices cannot share, before the data are read."""
    for name in ("devices", "num_nodes"):
        check_number(f"trainer.{name}", getattr(settings.trainer, name), low=1, integer=True)
    with settings.data.named_in_errors():
        data.batch_on_each(settings.trainer.devices * settings.trainer.num_nodes)


def _check_views(settings: Settings, data: SemiSupervisedData) -> None:
    """Refuse views that the images are too small for, before the first batch of them."""
    channels = data.image_shape[0]
    sizes = [data.image_shape[1:], *(reduced(data.image_shape, share) for _, share in data.ramp.parts("side"))]
    with section_of_errors("views", settings.views):
        for size, view in product(sizes, data.kinds.values()):
            view(torch.zeros(0, channels, *size, dtype=torch.uint8), torch.zeros(0, view.num_draws))


def build_parts(
    settings: Settings,
    *,
    split: Split | None = None,
    recipe: Recipe | None = None,
    open_teacher: OpenTeacher | None = None,
) -> RunParts:
    """Return everything but the Trainer; reads the data set.

    Args:
        settings: The settings of the run.
        split: Which images are labelled and held out; None does as ``data`` says.
        recipe: What a checkpoint says of the labels and the pool that it was trained with, where those of ``data`` are
            others; None takes these.
        open_teacher: Reads the network of another run, for methods that learn from one; None where nobody trains.

    Raises:
        UserError: Anything in the configuration is not legal.
    """
    device = build_device(settings)
    method = build_method(settings)
    data = build_data(settings, device=device, views=method.views, split=split)
    _check_shares(settings, data)
    with settings.data.named_in_errors():
        data.setup()
    _check_views(settings, data)
    _check_selection(settings, data)
    torch.manual_seed(settings.seed)
    problem = None if recipe is None else replace(recipe.problem, num_classes=len(data.classes))
    algorithm = build_algorithm(settings, data=data, method=method, problem=problem, open_teacher=open_teacher)
    if device.channels_last:
        algorithm = algorithm.to(memory_format=torch.channels_last)
    with section_of_errors("algorithm", settings.algorithm.method.arguments), settings.data.named_in_errors():
        check_learns_from_features(algorithm.network, method, data)
    if is_compiled(settings, device):
        from torch._functorch import config as functorch_config

        check_compiler(device)
        # By default a compiled backward overwrites what it has read, and a second one through the same graph is
        # refused: layers/* and rules that take gradients apart need one.
        functorch_config.donated_buffer = False
        algorithm.network.compile()  # in place: the names in checkpoints stay
    return RunParts(data, algorithm, device)


def is_compiled(settings: Settings, device: Device) -> bool:
    """Return whether the network is compiled: ``auto`` does it on a GPU, where it can be done.

    Args:
        settings: The settings of the run.
        device: The device that the run computes on.
    """
    if settings.compile == "auto":
        return device.accelerator == "gpu" and not missing_to_compile(device)
    return settings.compile in {True, "true"}


def check_compiler(device: Device) -> None:
    """Refuse to compile where nothing can.

    Args:
        device: What the network will run on.

    Raises:
        UserError: There is no compiler for it.
    """
    name = missing_to_compile(device)
    if name:
        raise UserError(f"compile=true needs {name} for {device.accelerator}, and there is none: give compile=false")


def missing_to_compile(device: Device) -> str:
    """Return what compiling a network needs and this machine has not, in words; empty where all is there.

    Args:
        device: What the network will run on.
    """
    if device.accelerator == "cpu":
        return "" if _has_program("CXX", "g++", "clang++", "cl") else "a C++ compiler"
    if device.accelerator != "gpu":
        return "torch.compile"
    needed = {
        "a GPU of compute capability 7.0": torch.cuda.get_device_capability() >= (7, 0),
        "triton": find_spec("triton") is not None,
        # Triton builds what starts its kernels in C, when they are first used.
        "a C compiler": _has_program("CC", "gcc", "clang", "cl"),
        "Python.h (of python3-dev or alike)": (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file(),
    }
    return next((name for name, there in needed.items() if not there), "")


def _has_program(variable: str, *names: str) -> bool:
    return any(shutil.which(name) for name in (os.environ.get(variable, names[0]), *names[1:]))


def build_loggers(settings: Settings, *, run_dir: Path, first_step: int) -> list[Logger]:
    """Return the loggers of a run.

    Raises:
        UserError: A value is not legal, or does not go with the other settings.
    """
    loggers: list[Logger] = settings.logger.make(run_dir=run_dir, first_step=first_step)
    for dashboard in dashboards_of(loggers):
        dashboard.check(settings.raw)
    return loggers


def build_trainer(settings: Settings, *, run_dir: Path, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    """Return the Lightning Trainer.

    Raises:
        UserError: A value is not legal, or the devices are not there.
    """
    options = asdict(settings.trainer)
    with section_of_errors("trainer", options):
        return make_trainer(
            **options,
            eval_every=settings.eval_every,
            accumulate=settings.algorithm.accumulate,
            run_dir=run_dir,
            callbacks=callbacks,
            loggers=loggers,
        )
