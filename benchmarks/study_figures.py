"""Figures of studies, drawn from what their ``study.json`` holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layermatch.study.design import METRICS
from layermatch.study.formats import rows_of_plain
from layermatch.study.rows import Row

__all__ = ["FIGURES", "draw_curves", "draw_differences", "draw_each_seed", "draw_why"]

Content = Mapping[str, Any]

ACCEPTED, MASK = "pseudo_labels/accuracy_accepted", "pseudo_labels/mask_rate"
TITLES = {ACCEPTED: "% right of those that count", MASK: "% of pseudo-labels that count"}
WRONG, COSINE = "truth/per_class_wrong/", "truth/{}/cosine"


def curves_of(content: Content, name: str, *, labels: int | None, setting: str) -> tuple[np.ndarray, np.ma.MaskedArray]:
    """Return the steps ``(T,)`` and the values ``(seeds, T)`` of a curve; what a run has no value of is masked.

    Args:
        content: The content of a ``study.json``.
        name: The name of the metric.
        labels: The number of labels.
        setting: The name of the setting.
    """
    cells = [cell for cell in content["cells"] if (cell["labels"], cell["setting"]) == (labels, setting)]
    found = [cell["curves"][name] for cell in cells if name in cell.get("curves", {})]
    steps = np.unique([step for curve in found for step in curve["steps"]])
    values = np.full((len(found), len(steps)), np.nan)
    for row, curve in zip(values, found, strict=True):
        row[np.searchsorted(steps, curve["steps"])] = curve["values"]
    return steps, np.ma.masked_invalid(values)


def draw_mean(axis: Axes, steps: np.ndarray, values: np.ma.MaskedArray, *, label: str, colour: str) -> None:
    """Draw the mean over the seeds, with a band of its standard error."""
    if not len(steps):
        return
    mean = values.mean(axis=0)
    axis.plot(steps, mean, color=colour, label=f"{label} ({len(values)} seed{'s' * (len(values) != 1)})", linewidth=1.5)
    if len(values) > 1:
        error = values.std(axis=0, ddof=1) / np.sqrt(values.count(axis=0))
        axis.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


def budgets_of(content: Content) -> list[int | None]:
    """Return the numbers of labels, in their order."""
    return list(rows_of_plain(content))


def draw_curves(content: Content) -> Figure:
    """Draw how many pseudo-labels count and how many of these are right over the run.

    A column is one algorithm with one number of labels.

    Args:
        content: The content of ``study.json`` of a grid whose first axis is the algorithm.
    """
    with_curves = dict.fromkeys(cell["setting"] for cell in content["cells"] if cell.get("curves"))
    algorithms = list(dict.fromkeys(name.partition(", ")[0] for name in with_curves))
    others = list(dict.fromkeys(name.partition(", ")[2] for name in with_curves))
    columns = [(algorithm, budget) for budget in budgets_of(content) for algorithm in algorithms]
    figure = Figure(figsize=(4.2 * len(columns), 5.6), layout="constrained")
    panels = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for row, metric in zip(panels, (ACCEPTED, MASK), strict=True):
        for axis, (algorithm, budget) in zip(row, columns, strict=True):
            for number, other in enumerate(others):
                setting = f"{algorithm}, {other}" if other else algorithm
                steps, values = curves_of(content, metric, labels=budget, setting=setting)
                draw_mean(axis, steps, 100 * values, label=other or algorithm, colour=f"C{number}")
            axis.set_title(f"{algorithm}, {budget} labels", fontsize=10)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(TITLES[metric], fontsize=9)
    for axis in panels[-1]:
        axis.set_xlabel("optimizer step")
    names = panels[0, 0].get_legend_handles_labels()
    figure.legend(*names, loc="outside upper center", ncols=1 if len(columns) == 1 else 3, frameon=False)
    return figure


def draw_differences(content: Content) -> Figure:
    """Draw each setting's difference from the reference with its 95 % interval: a panel for each number of labels.

    Args:
        content: The content of ``study.json`` of a study with one reference.
    """
    rows = rows_of_plain(content)
    names = list(dict.fromkeys(row.setting for each in rows.values() for row in each if row.comparison is not None))
    figure = Figure(figsize=(2.6 + 3.2 * len(rows), 1.2 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for axis, (labels, each) in zip(panels, rows.items(), strict=True):
        _draw_intervals(axis, each, names)
        axis.set_title("" if labels is None else f"{labels} labels", fontsize=10)
        axis.set_xlabel(
            f"points of accuracy against\n{next((r.reference for r in each if r.reference), '')}", fontsize=9
        )
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def draw_each_seed(content: Content) -> Figure:
    """Draw what is compared for each seed, joined across the settings, with their means: a panel for each budget.

    Args:
        content: The content of ``study.json``.
    """
    rows = rows_of_plain(content)
    names = list(dict.fromkeys(row.setting for each in rows.values() for row in each))
    width = 1.1 + 1.25 * len(names)
    figure = Figure(figsize=(0.6 + width * len(rows), 3.6), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for axis, (labels, each) in zip(panels, rows.items(), strict=True):
        found = {row.setting: row.by_draw for row in each}
        for draw in dict.fromkeys(draw for row in each for draw in row.by_draw):
            points = [100 * found[name][draw] if draw in found.get(name, {}) else np.nan for name in names]
            axis.plot(range(len(names)), points, color="0.75", linewidth=1, zorder=1)
        for place, name in enumerate(names):
            values = [100 * value for value in found.get(name, {}).values()]
            if not values:
                continue
            axis.plot([place] * len(values), values, "o", color=f"C{place}", markersize=5, zorder=2)
            mean = float(np.mean(values))
            axis.plot([place - 0.22, place + 0.22], [mean, mean], color=f"C{place}", linewidth=2.5, zorder=3)
            axis.annotate(
                f"{mean:.1f}", (place + 0.25, mean), fontsize=11, fontweight="bold", color=f"C{place}", va="center"
            )
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.5, len(names) - 0.35)
        axis.set_title("" if labels is None else f"{labels} labels", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel(f"{METRICS[content['metric']].title}, %", fontsize=9)
    return figure


def _draw_intervals(axis: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    for row in rows:
        found = row.comparison
        if found is None:
            continue
        mean = 100 * found.difference
        low, high = (100 * end for end in found.interval or (found.difference, found.difference))
        axis.errorbar(
            mean, names.index(row.setting), xerr=[[mean - low], [high - mean]], fmt="o", color="C0", markersize=4,
            linewidth=1.3, capsize=2,
        )  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.grid(axis="x", alpha=0.3)


def draw_why(content: Content) -> Figure:
    """Draw what pseudo-labels teach: how many are right, which way they pull each layer, and what they get wrong.

    Args:
        content: The content of ``study.json`` of runs that were measured against the truth, see
            :mod:`layermatch.methods.with_truth`.
    """
    (labels,) = budgets_of(content)
    settings = list(dict.fromkeys(cell["setting"] for cell in content["cells"]))
    names = dict.fromkeys(name for cell in content["cells"] for name in cell["curves"])
    start, end = COSINE.split("{}")
    layers = [
        name.removeprefix(start).removesuffix(end) for name in names if name.startswith(start) and name.endswith(end)
    ]
    # In their own order: a class that a run never took has no curve there, and would come last.
    classes = sorted((name.removeprefix(WRONG) for name in names if name.startswith(WRONG)), key=_natural)
    columns = max(len(layers), 2)
    figure = Figure(figsize=(2.5 * columns, 8.4), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1)
    for axis, metric in zip(top.subplots(1, 2), (ACCEPTED, MASK), strict=True):
        for number, setting in enumerate(settings):
            steps, values = curves_of(content, metric, labels=labels, setting=setting)
            draw_mean(axis, steps, 100 * values, label=setting, colour=f"C{number}")
        axis.set_title(TITLES[metric], fontsize=10)
        axis.set_xlabel("optimizer step", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis, layer in zip(middle.subplots(1, columns, sharey=True, squeeze=False)[0], layers, strict=False):
        for number, setting in enumerate(settings):
            steps, values = curves_of(content, COSINE.format(layer), labels=labels, setting=setting)
            draw_mean(axis, steps, values, label=setting, colour=f"C{number}")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(layer, fontsize=10)
        axis.grid(alpha=0.3)
    middle.suptitle("cosine of the pseudo-labels' gradient with that of the true classes, by layer", fontsize=10)
    _draw_bias(bottom.subplots(1, 1), content, settings, classes, labels)
    return figure


def _natural(name: str) -> tuple[int, int, str]:
    """Return what names are sorted by: numbers first, as numbers."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _draw_bias(
    axis: Axes, content: Content, settings: Sequence[str], classes: Sequence[str], labels: int | None
) -> None:
    """Draw the share of wrong ones among the last pseudo-labels of each class: mean, and each seed."""
    for number, setting in enumerate(settings):
        place = np.arange(len(classes)) + (number - (len(settings) - 1) / 2) * 0.8 / len(settings)
        for at, name in zip(place, classes, strict=True):
            steps, values = curves_of(content, WRONG + name, labels=labels, setting=setting)
            # The last tenth of the run; a class that nothing was taken for has no share.
            last = values[:, steps > 0.9 * steps[-1]].mean(axis=1).compressed() if len(steps) else np.empty(0)
            if len(last):
                label = setting if name == classes[0] else None
                axis.bar(at, 100 * last.mean(), width=0.8 / len(settings), color=f"C{number}", alpha=0.5, label=label)
                axis.plot(np.full(len(last), at), 100 * last, ".", color=f"C{number}", markersize=4)
    axis.set_xticks(range(len(classes)), classes)
    axis.set_title("% wrong of the pseudo-labels of each class that count, last tenth of the run", fontsize=10)
    axis.set_xlabel("class", fontsize=9)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)


#: The figure of each study that has one.
FIGURES: Mapping[str, Callable[[Content], Figure]] = {
    "digits10": draw_each_seed,
    "digits": draw_each_seed,
    "forwards": draw_curves,
    "statistics": draw_curves,
    "statistics_mu7": draw_curves,
    "statistics_fashion_mnist": draw_curves,
    "layers": draw_differences,
    "why": draw_why,
}
