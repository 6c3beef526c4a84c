"""Making the network of a checkpoint again: its weights come from the file, and pretrained ones are never fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from layermatch.components import find_target
from layermatch.errors import UserError
from layermatch.networks.pretrained import BASE_DIGEST, find_weights
from layermatch.paths import is_file
from layermatch.runs.layout import run_dir_of
from layermatch.settings import OF_WEIGHTS
from layermatch.training.recipe import BASE_KEY, RECIPE_KEY

__all__ = ["as_trained", "left_to_weights"]


def as_trained(
    settings: Mapping[str, Any], checkpoint: Mapping[str, Any], *, path: str | Path, plugins: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the settings of a run with which its network and its images can be made again, without fetching anything.

    A checkpoint of a network that learnt as a whole holds all weights: the network is made with random ones. One that
    leaves frozen weights out needs the file that they came from: where it was, beside the checkpoint or in its run
    directory, or where the settings say. What was left to the weights, the normalisation and the size of images, is as
    the checkpoint says.

    Args:
        settings: The composed configuration of the run, as plain containers.
        checkpoint: The checkpoint, as it was read.
        path: The path of the checkpoint.
        plugins: The packages that the settings may name beside this one.

    Raises:
        UserError: The file of weights that the checkpoint leaves out is nowhere.

    Example:
        >>> settings = {"model": {"weights": "vit.pth"}, "data": {}}
        >>> as_trained(settings, {"state_dict": {}}, path="x.ckpt")["model"]["weights"] is None
        True
    """
    model, data = settings.get("model"), settings.get("data")
    made = dict(settings)
    if isinstance(model, Mapping) and model.get("weights") is not None:
        needed = f"network.{BASE_DIGEST}" in checkpoint.get("state_dict", {})
        found = str(_found_again(model, checkpoint, Path(path), tuple(plugins))) if needed else None
        made["model"] = {**model, "weights": found}
    if isinstance(data, Mapping):
        made["data"] = {**data, **left_to_weights(data, checkpoint.get(RECIPE_KEY))}
    return made


def left_to_weights(data: Mapping[str, Any], recipe: object) -> dict[str, Any]:
    """Return the settings of the data that were left to pretrained weights, as they came to be.

    Args:
        data: The section ``data`` of the run's settings.
        recipe: What the checkpoint says of its images: ``mean``, ``std`` and ``image_shape``.
    """
    if not isinstance(recipe, Mapping):
        return {}
    side = (recipe.get("image_shape") or [None])[-1]
    known = {"mean": recipe.get("mean"), "std": recipe.get("std"), "image_size": side}
    return {name: value for name, value in known.items() if data.get(name) == OF_WEIGHTS and value is not None}


def _found_again(model: Mapping[str, Any], checkpoint: Mapping[str, Any], path: Path, plugins: tuple[str, ...]) -> Path:
    """Return the file of the weights that a checkpoint leaves out; that it is the right one, its digest shows later."""
    base = checkpoint.get(BASE_KEY)
    base = base if isinstance(base, Mapping) else {}
    where = Path(str(base.get("path") or model["weights"]))
    for place in (where, path.parent / where.name, run_dir_of(path) / where.name):
        if is_file(place):
            return place
    found = _where_the_settings_say(model, plugins)
    if found is not None:
        return found
    raise UserError(
        f"ckpt_path={path} leaves out the frozen weights of {base.get('network', 'its network')}, which are not there "
        f"any more: put the file {where.name} beside the checkpoint, or where it was, {where}"
    )


def _where_the_settings_say(model: Mapping[str, Any], plugins: tuple[str, ...]) -> Path | None:
    """Return the file that a new run would take: of a relative path, it may be another one of that name."""
    target = find_target("model._target_", model.get("_target_"), plugins=plugins)
    try:
        return find_weights(target, model)
    except UserError:  # the package with the weights is not installed: they are nowhere
        return None
