"""The pictures of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from layermatch.callbacks import PredictionTable
from layermatch.catalogue import Catalogue, Metric, Panel
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import ImageSet
from layermatch.figure_text import names_in_figure, save_figure
from layermatch.metrics import CATALOGUE, CONFUSION, TEST_ACCURACY_EMA
from layermatch.runs.metrics_file import MetricsFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_confusion", "draw_curves", "draw_mistakes", "draw_pairs", "read_metrics"]

#: (steps, values).
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Curves = dict[str, Curve]


#: More lines than this have no legend: nobody tells them apart.
MOST_NAMED = 12

#: Letters of a name beside axes or in a legend, and above a picture.
NAME_WIDTH, TITLE_WIDTH = 24, 16


def read_metrics(path: Path) -> Curves:
    """Return the curves in a ``metrics.csv``.

    Args:
        path: The path of the file.

    Returns:
        The (steps, values) of each metric.
    """
    file = MetricsFile(path)
    file.poll()
    return {name: (np.array(curve.steps, float), np.array(curve.values)) for name, curve in file.curves.items()}


def draw_curves(metrics_csv: Path, folder: Path, *, catalogue: Catalogue = CATALOGUE) -> None:
    """Draw each picture that the catalogue has, of what was logged.

    Args:
        metrics_csv: The ``metrics.csv`` of the run.
        folder: The folder that the pictures are written to.
        catalogue: The catalogue that says which metrics share a panel, and which panels a picture.
    """
    curves = read_metrics(metrics_csv)
    for name, panels in _figures(catalogue.arrange(curves)).items():
        _save(_curve_panels(panels, curves), folder / f"{name}.png")


def _figures(metrics: Iterable[Metric]) -> dict[str, dict[Panel, list[Metric]]]:
    """Arrange metrics: picture -> its panels -> the metrics in each."""
    figures: dict[str, dict[Panel, list[Metric]]] = {}
    for metric in metrics:
        if metric.panel is not None:
            figures.setdefault(metric.panel.figure, {}).setdefault(metric.panel, []).append(metric)
    return figures


def _curve_panels(panels: Mapping[Panel, Sequence[Metric]], curves: Curves) -> Figure:
    columns = 2 if len(panels) == 4 else len(panels)
    rows = -(-len(panels) // columns)
    legend = max((len(metrics) for metrics in panels.values() if len(metrics) <= MOST_NAMED), default=0)
    height = 3.3 + 0.17 * -(-legend // 2)
    figure, axes = _subplots(rows, columns, size=(4.6 * columns, height * rows))
    looks: dict[str, int] = {}
    last = max(float(curves[metric.name][0][-1]) for metrics in panels.values() for metric in metrics)
    for axis, (panel, metrics) in zip(axes.flat, panels.items(), strict=True):
        shown = names_in_figure([metric.in_legend for metric in metrics], width=NAME_WIDTH)
        for number, metric in enumerate(metrics):
            # What has one name has one look in every panel.
            look = looks.setdefault(metric.in_legend, number)
            _draw_line(axis, curves[metric.name], shown[number], look=look)
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel("optimizer step")
        axis.set_xlim(0, 1.04 * last)
        axis.grid(alpha=0.3)
        scale = metrics[0].kind.scale
        if scale == "share":
            axis.set_ylim(-0.02, 1.02)
        elif scale == "log" and _spans_a_decade([curves[metric.name] for metric in metrics]):
            axis.set_yscale("log")
            _write_plain_numbers(axis)
        if len(metrics) <= MOST_NAMED:
            axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))  # covers no curve
    return figure


def _write_plain_numbers(axis: Any) -> None:
    """Have 0.6 on a logarithmic axis, not 6x10^-1; of the ticks between decades, those that have room."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(Plain(minor_thresholds=(1.5, 0.5)))


def _spans_a_decade(curves: Iterable[Curve]) -> bool:
    values = np.concatenate([values for _, values in curves])
    values = values[values > 0]
    return len(values) > 0 and float(values.max() / values.min()) > 10


def _draw_line(axis: Any, curve: Curve, name: str, *, look: int) -> None:
    steps, values = curve
    style = ("-", "--", ":", "-.")[look % 4]
    label = name if values.any() else f"{name}: 0"  # a logarithmic axis has no 0
    # One point makes no line: show it as a dot.
    marker = "o" if len(steps) < 3 else None
    axis.plot(steps, values, label=label, color=f"C{look}", linestyle=style, marker=marker, linewidth=1.6)


def draw_confusion(counts: Tensor, classes: tuple[str, ...], path: Path) -> None:
    """Draw a confusion matrix, each row in shares of its true class.

    Args:
        counts: The counts ``(K, K)``; rows are true classes and columns predictions.
        classes: The names of the classes.
        path: The file that the picture is written to.
    """
    shares = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    names = names_in_figure(classes, width=NAME_WIDTH) if len(classes) <= 20 else []
    side = max(4.0, min(0.45 * len(classes) + 1.5, 14.0)) + 0.05 * max(map(len, names), default=0)
    figure, axes = _subplots(1, 1, size=(side, side))
    axis = axes.flat[0]
    image = axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, fraction=0.046, pad=0.04)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(CONFUSION.title, fontsize=10)
    if names:
        axis.set_xticks(range(len(classes)), names, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(classes)), names, fontsize=8)
        for row, column in np.argwhere(counts.numpy() > 0):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = str(int(counts[row, column]))
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    _save(figure, path)


def draw_pairs(data: SemiSupervisedData, path: Path, *, num_images: int = 8) -> None:
    """Draw images of the unlabelled pool at step 0 above their views, headed by their class where it is known.

    Args:
        data: The data module, set up.
        path: The file that the picture is written to.
        num_images: The number of columns, at most that of the images of a batch.
    """
    figure = _pairs(data, num_images=num_images)
    if figure is not None:
        _save(figure, path)


def _pairs(data: SemiSupervisedData, *, num_images: int) -> Figure | None:
    raw = data.training_steps()[0].unlabelled
    if raw is None:
        return None
    names = names_in_figure(data.classes, width=TITLE_WIDTH)
    views = data.raw_views(raw, data.views.unlabelled)
    given = data.pool_labels_of(raw.indices)
    num_images = min(num_images, len(raw.images))
    num_rows = 1 + len(views)
    figure, axes = _subplots(num_rows, num_images, size=(1.25 * num_images, 1.4 * num_rows))
    for row, (name, images) in enumerate({"image": raw.images, **views}.items()):
        for column in range(num_images):
            axis = axes[row, column]
            _show_image(axis, images[column].cpu().numpy())
            if column == 0:
                axis.set_ylabel(name)
            if row == 0:
                axis.set_title(_heading(names, int(raw.label[column]), int(given[column])), fontsize=8)
    return figure


def draw_mistakes(
    table: PredictionTable,
    images: ImageSet,
    classes: tuple[str, ...],
    path: Path,
    *,
    files: Sequence[str] | None = None,
    rows: int = 5,
    columns: int = 5,
) -> None:
    """Draw the wrong predictions that are most confident, the worst first; nothing where all are right.

    Args:
        table: The predictions for the test images.
        images: The test set.
        classes: The names of the classes.
        path: The file that the picture is written to.
        files: The file of each image of the test set, whose name is written below the picture; None where images are no
            files.
        rows: The rows of pictures, at most.
        columns: The columns of pictures.
    """
    worst = table.worst_mistakes(rows * columns)
    count = len(worst.indices)
    if not count:
        return
    columns = min(columns, count)
    rows = -(-count // columns)
    height = (1.9 if files is None else 2.05) * rows + 0.7
    figure, axes = _subplots(rows, columns, size=(max(1.5 * columns, 4.0), height), layout=None)
    # Placed by hand: to find the places for so many pictures takes longer than to draw them.
    below = 0.3 if files is None else 0.45
    figure.subplots_adjust(0.01, below / height, 0.99, 1 - 0.7 / height, wspace=0.06, hspace=0.1 + below)
    title = f"Most confident mistakes on the test set, {TEST_ACCURACY_EMA.in_legend}\nabove: prediction; below: truth"
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / height, verticalalignment="top")
    pixels = images.images.read(worst.indices.numpy())
    names = names_in_figure(classes, width=TITLE_WIDTH)
    found = [] if files is None else [files[index].rpartition("/")[2] for index in worst.indices.tolist()]
    file_names = names_in_figure(found, width=TITLE_WIDTH + 4)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for number, axis in enumerate(axes.flat[:count]):
        _show_image(axis, pixels[number])
        true, predicted = (names[int(column[number])] for column in (worst.label, worst.prediction))
        axis.set_title(f"{predicted} ({worst.confidence[number]:.1%})", fontsize=8, color="tab:red")
        axis.set_xlabel("\n".join([true, *file_names[number : number + 1]]), fontsize=8)
    _save(figure, path)


def _show_image(axis: Any, pixels: NDArray[np.uint8]) -> None:
    """Show ``(C, H, W)`` uint8."""
    axis.imshow(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0], cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])


def _heading(names: list[str], label: int, given: int) -> str:
    """Name the class of an image of the pool, and say whether it is a labelled one, whose class counts as unknown."""
    if given >= 0:
        return f"{names[given]}\n(labelled)"
    return names[label] if label >= 0 else "?"


def _subplots(
    rows: int, columns: int, *, size: tuple[float, float], layout: str | None = "constrained"
) -> tuple[Figure, Any]:
    # Figure itself rather than pyplot: no global state, and no display is looked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)  # type: ignore[arg-type]
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False))


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path, dpi=120)
