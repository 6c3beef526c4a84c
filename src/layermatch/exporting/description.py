"""What is said beside an exported network: how its images are made, its classes, its origin, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from layermatch import __version__
from layermatch.metrics import TEST_ACCURACY, TEST_ACCURACY_EMA, VAL_ACCURACY, VAL_ACCURACY_EMA
from layermatch.predictor import Predictor, Trained
from layermatch.runs.layout import RESULTS, run_dir_of
from layermatch.runs.reading import UNREADABLE, finite_number, read_results, reported_checkpoint
from layermatch.runs.settings import leaves
from layermatch.text import printable

__all__ = ["describe", "model_card"]

#: How an image file becomes the pixels that the network reads; :meth:`layermatch.Predictor.prepare` does the same.
PREPARATION = (
    "apply the EXIF orientation",
    "lay transparency on white",
    "convert to {mode}",
    "unless it is {size} x {size}: resize the short side to {size} pixels (Pillow, bicubic), and cut out the centre",
)

#: Accuracies that are said of the weights of a checkpoint, by their names in the description.
ACCURACIES = {
    "ema": {"test_accuracy": TEST_ACCURACY_EMA, "val_accuracy": VAL_ACCURACY_EMA},
    "live": {"test_accuracy": TEST_ACCURACY, "val_accuracy": VAL_ACCURACY},
}

#: Settings that a card names, where the run has them.
NAMED = (
    "algorithm.name", "data.source._target_", "data.num_labels", "data.mu", "data.batch_size", "optimizer.lr",
    "trainer.max_steps", "model._target_", "model.name", "model.tune", "seed",
)  # fmt: skip


def describe(predictor: Predictor, *, weights_alone: bool = False) -> dict[str, Any]:
    """Return all that a program has to know of an exported network, as plain containers.

    Args:
        predictor: The predictor that is exported.
        weights_alone: Whether the file holds the network's weights and nothing of what is done before and after it:
            then normalisation, resizing and temperature are left to whoever loads it.
    """
    trained, (channels, height, width) = predictor.checkpoint, predictor.image_shape
    mode = {1: "grey", 3: "RGB"}[channels]
    normalised = {"mean": list(predictor.mean), "std": list(predictor.std)}
    return {
        "input": {
            "name": "images",
            "type": "uint8",
            "shape": ["N", channels, height, width],
            "made_of_a_file_by": [line.format(mode=mode, size=height) for line in PREPARATION],
            **(_left_outside(predictor, normalised) if weights_alone else {"normalised_inside": normalised}),
        },
        "outputs": {
            "logits" if weights_alone else "probabilities": ["N", len(predictor.class_names)],
            "features": ["N", predictor.network.num_features],
        },
        "classes": list(predictor.class_names),
        "temperature": predictor.temperature,
        "checkpoint": {
            "name": trained.path.name,
            "blake2b": trained.digest,
            "step": trained.step,
            "weights": trained.weights,
            "layermatch": trained.version or __version__,
        },
        "settings": _settings(trained.settings),
        "results": _results(trained),
    }


def _left_outside(predictor: Predictor, normalised: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be done to images before a network that is given as weights alone."""
    side = getattr(predictor.network, "resize", None)  # pretrained networks alone have it
    return {"normalised_before": normalised} | ({} if side is None else {"resized_before": [side, side]})


def _settings(settings: Mapping[str, Any] | None) -> dict[str, str]:
    texts = {} if settings is None else leaves(settings)
    return {name: texts[name] for name in NAMED if name in texts}


def _results(trained: Trained) -> dict[str, Any]:
    """Return what the run of the checkpoint found, where its results lie beside; accuracies of these very weights."""
    run_dir = run_dir_of(trained.path)
    try:
        results = read_results(run_dir / RESULTS)
    except UNREADABLE:
        return {}
    found = {"steps": results.get("steps"), "num_labels": results.get("num_labels")}
    reported = reported_checkpoint(run_dir)
    if reported is not None and reported.resolve() == trained.path.resolve():
        test = results.get("test") or {}
        figures = {key: finite_number(metric.read(results)) for key, metric in ACCURACIES[trained.weights].items()}
        found = {**figures, "selection": test.get("selection"), **found}
    return {name: value for name, value in found.items() if value is not None}


def model_card(description: Mapping[str, Any], *, name: str, files: Mapping[str, str]) -> str:
    """Write a page about the network, as the Hugging Face hub takes it: data, protocol, figures, their selection.

    Args:
        description: What :func:`describe` says.
        name: The name of the model.
        files: The name of each file of it, and what it is.
    """
    results, settings = description["results"], description["settings"]
    accuracies = ACCURACIES[description["checkpoint"]["weights"]]
    method = settings.get("algorithm.name", "semi-supervised learning")
    front: dict[str, Any] = {
        "library_name": "layermatch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "semi-supervised-learning", method],
    }
    if "test_accuracy" in results:
        front["model-index"] = [_index(name, results, settings, title=accuracies["test_accuracy"].title)]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {printable(name)}",
        f"An image classifier with {len(description['classes'])} classes, trained by {printable(method)} with "
        f"[layermatch](https://pypi.org/project/layermatch/) {description['checkpoint']['layermatch']}.",
        _section("Files", [f"`{printable(file)}`: {what}" for file, what in files.items()]),
        _section("How good it is", _figures(description)),
        _section("What it reads", _input(description)),
        _section("Classes", [_code(label) for label in description["classes"]]),
        _section("Where it comes from", _origin(description)),
    ]
    return "\n\n".join(parts) + "\n"


def _code(text: object) -> str:
    """Return a text as it is: a class name may look like Markdown or HTML."""
    return f"`{printable(text).replace('`', chr(39))}`"


def _section(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines)


def _index(name: str, results: Mapping[str, Any], settings: Mapping[str, str], *, title: str) -> dict[str, Any]:
    source = settings.get("data.source._target_", "own images").rpartition(".")[2]
    value = round(results["test_accuracy"], 4)
    return {
        "name": printable(name),
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": source, "type": source.lower()},
                "metrics": [{"type": "accuracy", "value": value, "name": title}],
            }
        ],
    }


def _figures(description: Mapping[str, Any]) -> list[str]:
    results, accuracies = description["results"], ACCURACIES[description["checkpoint"]["weights"]]
    lines = [f"{metric.title}: {results[key]:.2%}" for key, metric in accuracies.items() if key in results]
    if not lines:
        lines = ["not known: no results of these weights lie beside the checkpoint"]
    if "selection" in results:
        lines.append(f"checkpoint selected by: {printable(results['selection'])}")
    if "num_labels" in results:
        lines.append(f"labelled images in training: {results['num_labels']}")
    return [*lines, _calibration(description)]


def _calibration(description: Mapping[str, Any]) -> str:
    temperature = description["temperature"]
    if temperature == 1:
        return "calibrated: no"
    if "logits" in description["outputs"]:
        return f"calibrated: divide the logits by {temperature:.4g} before the softmax"
    return f"calibrated: by a temperature of {temperature:.4g}"


def _input(description: Mapping[str, Any]) -> list[str]:
    given = description["input"]
    shape = " x ".join(map(str, given["shape"]))
    is_inside = "normalised_inside" in given
    values = given["normalised_inside" if is_inside else "normalised_before"]
    how = f"mean {values['mean']}, standard deviation {values['std']}"
    lines = [
        f"`{given['name']}`: {shape}, {given['type']}",
        f"of a file: {'; '.join(given['made_of_a_file_by'])}",
        f"normalised inside the network: {how}"
        if is_inside
        else f"to be normalised before the network: x / 255, {how}",
    ]
    if "resized_before" in given:
        height, width = given["resized_before"]
        lines.append(f"to be resized after that, before the network: to {height} x {width}, bilinear")
    return lines


def _origin(description: Mapping[str, Any]) -> list[str]:
    made = description["checkpoint"]
    lines = [
        f"checkpoint {_code(made['name'])}, step {made['step']}, {made['weights']} weights, BLAKE2b {made['blake2b']}"
    ]
    return lines + [f"`{name}={printable(value)}`" for name, value in description["settings"].items()]
