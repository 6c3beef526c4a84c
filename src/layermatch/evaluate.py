"""``python -m layermatch.evaluate ckpt_path=RUN_DIR``: the accuracy of a checkpoint, as its run reported it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from layermatch.build import RunParts, build_parts, build_trainer
from layermatch.checkpoints import CHECKPOINT_KEY, check_fits, read_checkpoint, stored_split
from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter, table
from layermatch.data.loader import loader_errors
from layermatch.errors import UserError, check_choice
from layermatch.launch import find_launch, take_rank
from layermatch.metrics import accuracies
from layermatch.paths import expand
from layermatch.predictor import resolve_checkpoint_file
from layermatch.quiet import quiet_libraries
from layermatch.rebuilding import as_trained
from layermatch.settings import SECTIONS, Settings, parse_plugins
from layermatch.training.recipe import RECIPE_KEY, Recipe

__all__ = ["NoImagesError", "check_debug", "evaluate", "main", "rebuild", "settings_of_run"]

#: Settings of ``data`` with which nothing has to be drawn or found again.
NOTHING_LOOKED_FOR = {"leaks": "keep"}
EVERY_LABEL = {"split": None, "fold": None, "num_labels": None, "num_val": 0, "imbalance": None}

#: The sections of a run that may be given otherwise.
SECTIONS_GIVEN = ("data", "trainer")

#: The files of conf/debug that change no setting.
DEBUG = ("none", "tracebacks")


class NoImagesError(UserError):
    """The run of a checkpoint had no images of the part that is asked for."""


def evaluate(
    ckpt_path: str | Path,
    *,
    split: str = "test",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    plugins: tuple[str, ...] = (),
) -> dict[str, float]:
    """Evaluate a checkpoint on the images that its run would.

    Args:
        ckpt_path: A ``.ckpt`` file of a run, or a run directory, see
            :func:`~layermatch.predictor.resolve_checkpoint_file`.
        split: The images: ``test`` or ``val``.
        overrides: Section -> key -> value, in the place of the run's own settings, for example where the data lie.
        plugins: Packages that the run's settings may name, beside this one and ``torch.optim``.

    Returns:
        ``accuracy`` of the live weights and ``accuracy_ema`` of their average.

    Raises:
        UserError: The checkpoint cannot be read or does not fit, or there are no such images.
    """
    path = resolve_checkpoint_file(ckpt_path)
    settings, parts = rebuild(path, split=split, overrides=overrides, plugins=plugins)
    trainer = build_trainer(settings, run_dir=path.parent, callbacks=[], loggers=[])
    run = trainer.test if split == "test" else trainer.validate
    with settings.data.named_in_errors(), loader_errors():
        run(parts.algorithm, datamodule=parts.data, verbose=False)
    return {metric.path[-1]: parts.algorithm.latest[metric.name] for metric in accuracies(split).values()}


def rebuild(
    ckpt_path: str | Path,
    *,
    split: str = "test",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    plugins: tuple[str, ...] = (),
) -> tuple[Settings, RunParts]:
    """Return what the run of a checkpoint was made of, with its weights and the images to evaluate on.

    Args:
        ckpt_path: A ``.ckpt`` file of a run.
        split: The images: ``test`` or ``val``.
        overrides: Section -> key -> value, in the place of the run's own settings, for example where the data lie.
        plugins: Packages that the run's settings may name, beside this one and ``torch.optim``.

    Raises:
        UserError: The checkpoint cannot be read or does not fit, or there are no such images.
    """
    check_choice("split", split, ("test", "val"))
    take_rank(find_launch(devices=1, num_nodes=1, is_fixed=True))
    ckpt_path = expand("ckpt_path", ckpt_path, "a checkpoint file")
    checkpoint = read_checkpoint(ckpt_path)
    stored = checkpoint[CHECKPOINT_KEY]
    raw = settings_of_run(stored["settings"], overrides or {}, plugins)
    if split == "test":  # which needs no split: its training images may be others by now, or gone
        raw["data"] |= EVERY_LABEL
        # What the run chose by its training images, it has to be once more.
        measured = stored["split"].get("measured") or {}
        raw["data"] |= {name: value for name, value in measured.items() if raw["data"].get(name, 0) is None}
    settings = Settings.parse(as_trained(raw, checkpoint, path=ckpt_path, plugins=plugins))
    if split == "val":
        parts = build_parts(settings, split=stored_split(checkpoint, ckpt_path))
    else:  # what a method keeps of each image of its pool is as long as that was
        recipe = checkpoint.get(RECIPE_KEY)
        parts = build_parts(settings, recipe=None if recipe is None else Recipe.of_plain(recipe))
    check_fits(checkpoint, parts.algorithm.state_dict(), classes=parts.data.classes, path=ckpt_path)
    parts.algorithm.load_state_dict(checkpoint["state_dict"])
    if (parts.data.test if split == "test" else parts.data.validation) is None:
        raise NoImagesError(f"split={split}: the run that wrote {ckpt_path} had no such images")
    return settings, parts


def settings_of_run(
    stored: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]], plugins: tuple[str, ...]
) -> dict[str, Any]:
    """Return a run's settings on one device, with what the user puts in their place.

    Args:
        stored: The settings in the run's checkpoint.
        overrides: Section -> key -> value; None there leaves the run's own.
        plugins: Packages that the settings may name, beside this one and ``torch.optim``.

    Raises:
        UserError: There is no such section or key.
    """
    settings = {key: dict(value) if isinstance(value, Mapping) else value for key, value in stored.items()}
    check_keys("", settings, SECTIONS)
    settings["plugins"] = list(plugins)  # whom to trust is the user's to say, not the checkpoint's
    settings["checkpoint"] |= {"selection": "last"}  # the weights are those of the file
    settings["data"] |= NOTHING_LOOKED_FOR
    if settings["data"].get("storage") == "features":
        settings["data"]["storage"] = "auto"  # the whole network is evaluated, on the images themselves
    settings["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    for section, values in overrides.items():
        given = {key: value for key, value in values.items() if value is not None}
        check_keys(section, given, settings[section])
        settings[section] |= given
    return settings


def check_debug(choice: str | None) -> None:
    """Refuse a choice that changes what a run does, which is over.

    Args:
        choice: The file of conf/debug.

    Raises:
        UserError: It changes a run.
    """
    if choice not in {None, *DEBUG}:
        raise UserError(f"debug={choice} changes a run, and this is none: choose one of {', '.join(DEBUG)}")


def _evaluate(config: DictConfig) -> None:
    settings = plain(config)
    check_debug(HydraConfig.get().runtime.choices.get("debug"))
    names = ("ckpt_path", "split", "plugins", *SECTIONS_GIVEN)
    check_keys("", settings, names)
    for name in names:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    for section in SECTIONS_GIVEN:
        if not isinstance(settings[section], Mapping):
            raise UserError(f"{section}={settings[section]!r} is not legal: give {section}.KEY=VALUE")
    plugins = parse_plugins(settings["plugins"])
    given = settings["ckpt_path"]
    path = resolve_checkpoint_file(given)
    is_file_given = path == expand("ckpt_path", given, "a checkpoint file")
    with quiet_libraries():
        accuracy = evaluate(
            path,
            split=settings["split"],
            overrides={section: settings[section] for section in SECTIONS_GIVEN},
            plugins=plugins,
        )
    averaged_first = reversed(accuracies(settings["split"]).values())
    rows = {metric.in_legend: f"{accuracy[metric.path[-1]]:.4%}" for metric in averaged_first}
    reporter = Reporter()
    reporter.show(f"checkpoint: {given if is_file_given else path}")  # as a line, for a narrow table would break it
    reporter.show(table(f"Accuracy on {settings['split']}", rows))


def main() -> None:
    """Run the command line."""
    run_app(_evaluate, "evaluate")


if __name__ == "__main__":
    main()
