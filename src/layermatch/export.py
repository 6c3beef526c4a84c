"""``python -m layermatch.export ckpt_path=FILE output=model.onnx``: write a network for other programs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich import filesize

from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter, table
from layermatch.errors import RunError, UserError, check_choice
from layermatch.evaluate import check_debug
from layermatch.exporting import FORMATS, Deployed, Format, describe, model_card
from layermatch.paths import expand, is_folder
from layermatch.predictor import WEIGHTS, Predictor
from layermatch.quiet import quiet_libraries
from layermatch.settings import parse_plugins

__all__ = ["Exported", "export", "main"]

#: What the probabilities of the file may differ by from those of the network.
TOLERANCE = 1e-4

#: Images that both compute.
CHECKED = 16

#: What the files are called in a folder for the hub.
HUB_CARD, HUB_DESCRIPTION = "README.md", "config.json"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        files: The path of each file, and what it is.
        difference: The largest difference between the probabilities of the file and those of the network; None where
            the file holds weights alone.
        size: The size of the file with the network, in bytes.
    """

    files: Mapping[Path, str]
    difference: float | None
    size: int


def export(
    ckpt_path: str | Path,
    output: str | Path,
    *,
    format: str | None = None,  # noqa: A002 -- as the setting is called
    weights: str = "ema",
    hub_folder: str | Path | None = None,
    plugins: tuple[str, ...] = (),
) -> Exported:
    """Write a trained network into a file, compute with that file, and describe it beside.

    Args:
        ckpt_path: A ``.ckpt`` file of a run, or a run directory.
        output: The file to write; a description in JSON and a model card in Markdown get its name with other endings.
        format: A key of :data:`~layermatch.exporting.FORMATS`; None takes the one whose ending ``output`` has.
        weights: ``ema``, the average of the weights, or ``live``.
        hub_folder: A folder that must not be there yet, and gets the files by the names that the Hugging Face hub
            knows.
        plugins: Packages that the run's settings may name, beside this one.

    Raises:
        UserError: An argument is not legal, a file is there already, or the checkpoint does not do.
        RunError: The file computes something else than the network, or cannot be written.

    Example:
        >>> export("no/such.ckpt", "model.txt", format="onnx")
        Traceback (most recent call last):
        layermatch.errors.UserError: output=model.txt is not legal: give a file that ends with .onnx
    """
    path, (name, kind) = expand("output", output, "a file"), _format(output, format)
    folder = None if hub_folder is None else expand("hub_folder", hub_folder, "a folder")
    files = {path: kind.what, path.with_suffix(".json"): "what it reads and says", path.with_suffix(".md"): "the card"}
    _check_targets([*files, *([folder] if folder else [])], path)
    for setting, place in (("output", path), *([("hub_folder", folder)] if folder else [])):
        _check_writable(setting, place)
    predictor = Predictor.load(ckpt_path, device="cpu", weights=weights, plugins=plugins)
    description = describe(predictor, weights_alone=kind.compute is None)
    card = model_card(description, name=path.stem, files={path.name: kind.what})
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as made:
            whole = Path(made) / path.name
            difference = _write(kind, predictor, description, whole, name=name)
            whole.with_suffix(".json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
            whole.with_suffix(".md").write_text(card, encoding="utf-8")
            if folder is not None:
                _lay_out(whole, folder, kind)
            size = whole.stat().st_size
            for target in files:
                Path(whole.with_name(target.name)).replace(target)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}: nothing was exported") from error
    return Exported(files, difference, size)


def _format(output: str | Path, given: str | None) -> tuple[str, Format]:
    ending = Path(output).suffix.lower()
    found = {kind.ending: name for name, kind in FORMATS.items()}
    if given is not None:
        check_choice("format", given, FORMATS)
    name = given or found.get(ending)
    if name is None or FORMATS[name].ending != ending:
        *others, last = found if given is None else ["", FORMATS[str(given)].ending]
        legal = f"{', '.join(filter(None, others))} or {last}" if any(others) else last
        raise UserError(f"output={output} is not legal: give a file that ends with {legal}")
    return name, FORMATS[name]


def _check_targets(targets: list[Path], path: Path) -> None:
    there = [target for target in targets if os.path.lexists(target)]
    if there:
        raise UserError(f"{there[0]} is there already: give another name, or remove it")
    if not is_folder(path.parent):
        raise UserError(f"output={path}: there is no folder {path.parent}: give a file in a folder that exists")


def _check_writable(setting: str, path: Path) -> None:
    """Refuse a place where nothing can be written, before any work."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise UserError(
            f"{setting}={path}: {path.parent} cannot be written to: {error.strerror or error}: give another folder"
        ) from error


def _write(
    kind: Format, predictor: Predictor, description: Mapping[str, Any], path: Path, *, name: str
) -> float | None:
    """Write, compute with what was written, and compare."""
    deployed = Deployed(predictor).eval()
    kind.write(deployed, description, path)
    if kind.compute is None:
        return None
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CHECKED, *predictor.image_shape), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        expected, _ = deployed(images)
    found, _ = kind.compute(path, images)
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:
        raise RunError(f"format={name}: the file's probabilities differ by {difference:.2g}: nothing was exported")
    return difference


def _lay_out(whole: Path, folder: Path, kind: Format) -> None:
    """Make a folder as the hub wants it, whole or not there."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        ready = Path(made) / folder.name
        ready.mkdir()
        shutil.copyfile(whole, ready / f"model{kind.ending}")
        shutil.copyfile(whole.with_suffix(".json"), ready / HUB_DESCRIPTION)
        shutil.copyfile(whole.with_suffix(".md"), ready / HUB_CARD)
        ready.rename(folder)


def check_repo_id(repo_id: str) -> None:
    """Check the name of a repository on the Hugging Face hub.

    Args:
        repo_id: The name, ``USER/NAME``.

    Raises:
        UserError: The hub's own library is not there, or the name is not legal.

    Example:
        >>> check_repo_id("ants")
        Traceback (most recent call last):
        layermatch.errors.UserError: push_to_hub=ants is not legal: give USER/NAME
    """
    try:
        check = import_module("huggingface_hub.utils").validate_repo_id
    except ModuleNotFoundError as error:
        raise UserError("push_to_hub needs the package huggingface_hub: pip install 'layermatch[export]'") from error
    try:
        check(repo_id)
        is_legal = "/" in repo_id
    except ValueError:
        is_legal = False
    if not is_legal:
        raise UserError(f"push_to_hub={repo_id} is not legal: give USER/NAME")


def push(folder: Path, repo_id: str) -> str:
    """Upload a folder of :func:`export` to the Hugging Face hub, by the hub's own library.

    Args:
        folder: The folder.
        repo_id: The repository, ``USER/NAME``; it is made, privately, where it is not there yet.

    Returns:
        The address of the commit.

    Raises:
        UserError: The library is not there, or the name is not legal.
        RunError: The hub cannot be reached, or refuses.
    """
    check_repo_id(repo_id)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are OSError, and what the HTTP library raises where nobody answers: which one the hub's own library uses
    # changes with its version. It turns answers that it cannot use into the other two.
    bases = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    refusals: tuple[type[Exception], ...] = (*bases, ValueError, RuntimeError)
    hub = HfApi()
    try:
        with _without_bars():
            hub.create_repo(repo_id, private=True, exist_ok=True)
            return str(hub.upload_folder(folder_path=folder, repo_id=repo_id, commit_message="Exported by layermatch"))
    except refusals as error:
        lines = [" ".join(str(each).split())[:200] for each in (error, error.__cause__) if each is not None]
        raise RunError(
            f"push_to_hub={repo_id}: {': '.join(lines)}: {folder} is whole, and can be pushed later"
        ) from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep the hub's library from drawing bars, after which an error would not begin a line."""
    bars = import_module("huggingface_hub.utils")
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


# ------------------------------------------------------------------------------------------------------ command line


def _export(config: DictConfig) -> None:
    settings = plain(config)
    check_debug(HydraConfig.get().runtime.choices.get("debug"))
    names = ("ckpt_path", "output", "format", "weights", "hub_folder", "push_to_hub", "plugins")
    check_keys("", settings, names)
    for name in names:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    check_choice("weights", settings["weights"], WEIGHTS)
    repo_id, hub_folder = settings["push_to_hub"], settings["hub_folder"]
    if repo_id is not None and hub_folder is None:
        raise UserError(f"push_to_hub={repo_id} uploads a folder: give hub_folder=DIR too")
    if repo_id is not None:
        check_repo_id(str(repo_id))
    with quiet_libraries():
        made = export(
            settings["ckpt_path"],
            settings["output"],
            format=settings["format"],
            weights=settings["weights"],
            hub_folder=hub_folder,
            plugins=parse_plugins(settings["plugins"]),
        )
    reporter = Reporter()
    reporter.show(table("Exported", {str(path): what for path, what in made.files.items()}))
    said = "weights alone" if made.difference is None else f"probabilities differ by at most {made.difference:.1e}"
    reporter.show(f"{filesize.decimal(made.size)}; {said}")
    if repo_id is not None:
        reporter.show(f"pushing to {repo_id}")
        reporter.show(f"pushed: {push(expand('hub_folder', hub_folder, 'a folder'), str(repo_id))}")


def main() -> None:
    """Start the command."""
    run_app(_export, config_name="export")


if __name__ == "__main__":
    main()
