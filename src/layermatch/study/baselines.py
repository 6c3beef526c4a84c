"""What a pretrained network does with labels alone: the rows that every study of one has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from layermatch.study.design import Cell, Setting, Study

__all__ = ["BASELINES", "is_pretrained", "of_labels_alone", "with_baselines"]

#: The settings of labels alone, by name, and what each has on its command line after everything else. A probe leaves
#: the extractor as it is and is solved in one step, whatever the other runs do.
BASELINES: Mapping[str, tuple[str, ...]] = {
    "linear_probe": ("trainer.max_steps=1", "eval_every=1", "model.tune=frozen"),
    "supervised": (),
}


def is_pretrained(model: Mapping[str, Any]) -> bool:
    """Return whether a network starts from weights that were learnt elsewhere.

    Args:
        model: The section ``model`` of a run.

    Example:
        >>> is_pretrained({"name": "resnet18", "weights": "hub"}), is_pretrained({"depth": 28})
        (True, False)
    """
    return model.get("weights") is not None


def of_labels_alone(cells: Iterable[Cell]) -> set[str]:
    """Return the names of the settings that use no unlabelled image.

    Args:
        cells: The runs of a study.
    """
    return {cell.setting.name for cell in cells if cell.raw["algorithm"].get("name") in BASELINES}


def with_baselines(
    study: Study, *, model_of: Callable[[Sequence[str]], Mapping[str, Any]], has_reference: bool = True
) -> Study:
    """Return a study with the rows of labels alone, in front, where its runs share a pretrained network.

    What unlabelled images add to a pretrained network is what they add to the better of these, which
    :func:`~layermatch.study.verdict.better_of` finds. ``supervised`` has the same part of the network learn as the
    other settings.

    Args:
        study: The study. A setting of its own with one of these algorithms stands in for the row.
        model_of: Composes words of a command line, and gives the section ``model``; empty where they are not legal.
        has_reference: Whether the study says what differences are to; else it is the first row.
    """
    # What all runs share may be legal with the words of a setting alone, as `algorithm.eta=1` is for DST.
    words = [(*study.common, *study.given), *map(study.words_of, study.settings)]
    if not is_pretrained(next(filter(None, map(model_of, words)), {})):
        return study
    there = {word for setting in study.settings for word in setting.words}
    names = {setting.name for setting in study.settings}
    added = tuple(
        Setting(name, (f"algorithm={name}",), fixed=fixed)
        for name, fixed in BASELINES.items()
        if f"algorithm={name}" not in there and name not in names
    )
    reference = study.reference if has_reference or not added else added[0].name
    return replace(study, settings=(*added, *study.settings), reference=reference, is_pretrained=True)
