"""What is said beside an exported network: how its images are made, its classes, its origin, how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layermatch import __version__
from layermatch.metrics import TEST_ACCURACY_EMA, VAL_ACCURACY_EMA
from layermatch.predictor import Predictor
from layermatch.runs.layout import RESULTS, run_dir_of
from layermatch.runs.reading import UNREADABLE, finite_number, read_results
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

#: Accuracies that are said, by their names in the description.
ACCURACIES = {"test_accuracy": TEST_ACCURACY_EMA, "val_accuracy": VAL_ACCURACY_EMA}

#: Settings that a card names, where the run has them.
NAMED = (
    "algorithm.name", "data.source._target_", "data.num_labels", "data.mu", "data.batch_size", "optimizer.lr",
    "trainer.max_steps", "model._target_", "model.name", "model.tune", "seed",
)  # fmt: skip


def describe(predictor: Predictor) -> dict[str, Any]:
    """Return all that a program has to know of an exported network, as plain containers.

    Args:
        predictor: The predictor that is exported.
    """
    trained, (channels, height, width) = predictor.checkpoint, predictor.image_shape
    mode = {1: "grey", 3: "RGB"}[channels]
    return {
        "input": {
            "name": "images",
            "type": "uint8",
            "shape": ["N", channels, height, width],
            "made_of_a_file_by": [line.format(mode=mode, size=height) for line in PREPARATION],
            "normalised_inside": {"mean": list(predictor.mean), "std": list(predictor.std)},
        },
        "outputs": {
            "probabilities": ["N", len(predictor.class_names)],
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
        "results": _results(trained.path),
    }


def _settings(settings: Mapping[str, Any] | None) -> dict[str, str]:
    texts = {} if settings is None else leaves(settings)
    return {name: texts[name] for name in NAMED if name in texts}


def _results(ckpt_path: Path) -> dict[str, Any]:
    """Return what the run of the checkpoint found, where its results lie beside: those of its own selection."""
    try:
        results = read_results(run_dir_of(ckpt_path) / RESULTS)
    except UNREADABLE:
        return {}
    test = results.get("test") or {}
    found = {
        **{key: finite_number(metric.read(results)) for key, metric in ACCURACIES.items()},
        "selection": test.get("selection"),
        "steps": results.get("steps"),
        "num_labels": results.get("num_labels"),
    }
    return {name: value for name, value in found.items() if value is not None}


def model_card(description: Mapping[str, Any], *, name: str, files: Mapping[str, str]) -> str:
    """Write a page about the network, as the Hugging Face hub takes it: data, protocol, figures, their selection.

    Args:
        description: What :func:`describe` says.
        name: The name of the model.
        files: The name of each file of it, and what it is.
    """
    results, settings = description["results"], description["settings"]
    method = settings.get("algorithm.name", "semi-supervised learning")
    front: dict[str, Any] = {
        "library_name": "layermatch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "semi-supervised-learning", method],
    }
    if "test_accuracy" in results:
        front["model-index"] = [_index(name, results, settings)]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {printable(name)}",
        f"An image classifier with {len(description['classes'])} classes, trained by {printable(method)} with "
        f"[layermatch](https://pypi.org/project/layermatch/) {description['checkpoint']['layermatch']}.",
        _section("Files", [f"`{printable(file)}`: {what}" for file, what in files.items()]),
        _section("How good it is", _figures(results, description["temperature"])),
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


def _index(name: str, results: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    source = settings.get("data.source._target_", "own images").rpartition(".")[2]
    value = round(results["test_accuracy"], 4)
    return {
        "name": printable(name),
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": source, "type": source.lower()},
                "metrics": [{"type": "accuracy", "value": value, "name": TEST_ACCURACY_EMA.title}],
            }
        ],
    }


def _figures(results: Mapping[str, Any], temperature: float) -> list[str]:
    lines = [f"{metric.title}: {results[key]:.2%}" for key, metric in ACCURACIES.items() if key in results]
    if "selection" in results:
        lines.append(f"checkpoint selected by: {printable(results['selection'])}")
    if "num_labels" in results:
        lines.append(f"labelled images in training: {results['num_labels']}")
    if not lines:
        lines = ["not known: no results of its run lie beside the checkpoint"]
    is_calibrated = temperature != 1
    return [*lines, f"calibrated: by a temperature of {temperature:.4g}" if is_calibrated else "calibrated: no"]


def _input(description: Mapping[str, Any]) -> list[str]:
    given = description["input"]
    shape = " x ".join(map(str, given["shape"]))
    inside = given["normalised_inside"]
    return [
        f"`{given['name']}`: {shape}, {given['type']}",
        f"of a file: {'; '.join(given['made_of_a_file_by'])}",
        f"normalised inside the network: mean {inside['mean']}, standard deviation {inside['std']}",
    ]


def _origin(description: Mapping[str, Any]) -> list[str]:
    made = description["checkpoint"]
    lines = [
        f"checkpoint {_code(made['name'])}, step {made['step']}, {made['weights']} weights, BLAKE2b {made['blake2b']}"
    ]
    return lines + [f"`{name}={printable(value)}`" for name, value in description["settings"].items()]
