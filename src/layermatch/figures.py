"""The pictures of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from layermatch.data import SemiSupervisedData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_confusion", "draw_curves", "draw_pairs", "read_metrics"]

#: Panels of the two curve figures: title -> {metric: name in the legend}.
LOSSES = {
    "Loss of each layer group": {"loss/features": "extractor", "loss/classifier": "classifier"},
    "Its parts": {
        "loss/supervised": "supervised",
        "loss/pseudo": "pseudo-label",
        "loss/avg_clustering": "Avg-Clustering",
    },
    "Validation accuracy": {"val/accuracy": "live weights", "val/accuracy_ema": "EMA weights"},
}
PSEUDO_LABELS = {
    "Share of pseudo-labels that count": {"pseudo_labels/mask_rate": "mask rate"},
    "Accuracy of those that count": {"pseudo_labels/accuracy": "pseudo-label accuracy"},
}


def read_metrics(path: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The curves in a ``metrics.csv``.

    Args:
        path: of the file.

    Returns:
        Metric -> (steps, values).
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value:
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in curves.items()}


def draw_curves(metrics_csv: Path, folder: Path) -> None:
    """Draw ``curves.png`` (losses, accuracy) and ``pseudo_labels.png`` (mask rate, accuracy).

    Args:
        metrics_csv: of the run.
        folder: where to.
    """
    curves = read_metrics(metrics_csv)
    for name, panels in (("curves", LOSSES), ("pseudo_labels", PSEUDO_LABELS)):
        drawn = {t: {m: label for m, label in lines.items() if m in curves} for t, lines in panels.items()}
        drawn = {title: lines for title, lines in drawn.items() if lines}
        if drawn:
            _save(_curve_panels(curves, drawn), folder / f"{name}.png")


def _curve_panels(curves: dict[str, Any], panels: dict[str, dict[str, str]]) -> Figure:
    figure, axes = _subplots(1, len(panels), size=(4.6 * len(panels), 3.4))
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for (metric, label), style in zip(lines.items(), ("-", "--", ":"), strict=False):
            steps, values = curves[metric]
            # One point makes no line: show it as a dot.
            axis.plot(
                steps, values, label=label, marker="o" if len(steps) < 3 else None, linewidth=1.6, linestyle=style
            )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        if not title.startswith(("Loss", "Its")):
            axis.set_ylim(-0.02, 1.02)
        axis.legend(fontsize=8)
    return figure


def draw_confusion(counts: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, each row in shares of its true class.

    Args:
        counts: ``(K, K)``, rows are true classes and columns predictions.
        classes: names.
        path: of the picture.
    """
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = max(4.0, min(0.45 * len(classes) + 1.5, 14.0))
    figure, axes = _subplots(1, 1, size=(side, side))
    axis = axes.flat[0]
    image = axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, fraction=0.046, pad=0.04)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title("Test set, EMA weights", fontsize=10)
    if len(classes) <= 20:
        axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(classes)), classes, fontsize=8)
        for row, column in np.argwhere(counts.numpy() > 0):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = str(int(counts[row, column]))
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    _save(figure, path)


def draw_pairs(data: SemiSupervisedData, path: Path, *, num_images: int = 8) -> None:
    """Draw unlabelled images of step 0 above their weak and their strong views.

    Args:
        data: set up.
        path: of the picture.
        num_images: columns, at most those of a batch.
    """
    raw = data.training_steps()[0].unlabelled
    if raw is None:
        return
    weak = data.weak(raw.images, raw.draws[0])
    strong = data.strong(raw.images, raw.draws[1])
    num_images = min(num_images, len(raw.images))
    figure, axes = _subplots(3, num_images, size=(1.25 * num_images, 4.2))
    for row, (name, images) in enumerate({"image": raw.images, "weak": weak, "strong": strong}.items()):
        for column in range(num_images):
            axis = axes[row, column]
            pixels = images[column].permute(1, 2, 0).cpu()
            axis.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                axis.set_ylabel(name)
            if row == 0:
                axis.set_title(_label(data, int(raw.label[column])), fontsize=8)
    _save(figure, path)


def _label(data: SemiSupervisedData, label: int) -> str:
    return data.classes[label] if label >= 0 else "?"


def _subplots(rows: int, columns: int, *, size: tuple[float, float]) -> tuple[Figure, Any]:
    # Figure itself rather than pyplot: no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False))


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
