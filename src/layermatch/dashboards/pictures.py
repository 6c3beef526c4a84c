"""Pictures as pixels, the form that every dashboard takes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layermatch.figure_text import names_in_figure, save_figure
from layermatch.metrics import TEST_ACCURACY_EMA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Pairs", "class_accuracies", "per_class_bars", "read_picture", "views_panel"]

#: Blue, vermilion and grey that colour-blind readers can tell apart (Okabe and Ito 2008).
RIGHT, WRONG, UNDECIDED = "#0072B2", "#D55E00", "#6e6e6e"
COLUMNS = 8
MOST_BARS = 40

#: Letters of a name above a pair, and beside a bar.
PAIR_WIDTH, BAR_WIDTH = 10, 24


class Pairs(NamedTuple):
    """Views of unlabelled images, and the pseudo-labels that one of them gave the other.

    Attributes:
        weak: ``(N, H, W, C)`` uint8.
        strong: ``(N, H, W, C)`` uint8.
        label: ``(N,)`` class of the pseudo-label.
        confidence: ``(N,)`` its probability.
        weight: ``(N,)`` how much it counts; 0 where it is masked.
        truth: ``(N,)`` the true class; -1 where it is not known.
    """

    weak: NDArray[np.uint8]
    strong: NDArray[np.uint8]
    label: NDArray[np.int64]
    confidence: NDArray[np.float64]
    weight: NDArray[np.float64]
    truth: NDArray[np.int64]


def read_picture(file: Path | BytesIO) -> NDArray[np.uint8]:
    """Return the pixels of a picture file, ``(H, W, 3)``."""
    from PIL import Image

    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def pixels_of(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure; ``(H, W, 3)``."""
    file = BytesIO()
    save_figure(figure, file, dpi=110)
    return read_picture(file)


# -------------------------------------------------------------------------------------------------------------- views


def views_panel(pairs: Pairs, classes: Sequence[str], *, title: str) -> NDArray[np.uint8]:
    """Return each weak view above its strong view, and above both the pseudo-label that leads from one to the other.

    Args:
        pairs: The views; up to 16 look good.
        classes: The names of the classes.
        title: The title above all pairs.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from matplotlib.figure import Figure

    count = len(pairs.label)
    rows = -(-count // COLUMNS)
    # In sides of an image: a pair is 1 wide and 2 high, with a gap beside it and two lines of text above it.
    gap, text, head = 0.12, 0.4, 0.36
    width, height = COLUMNS * (1 + gap) + gap, head + rows * (2 + text + 2 * gap)
    figure = Figure(figsize=(width * 1.15, height * 1.15))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    axis.text(gap, 0.22, title, fontsize=9, va="center")
    names = names_in_figure(classes, width=PAIR_WIDTH)
    for index in range(count):
        row, column = divmod(index, COLUMNS)
        left, top = gap + column * (1 + gap), head + row * (2 + text + 2 * gap)
        verdict, colour = _verdict(pairs, index, names)
        axis.text(left, top + text - 0.06, verdict, fontsize=8, color=colour, va="bottom", linespacing=1.15)
        for below, image in enumerate((pairs.weak[index], pairs.strong[index])):
            edge = top + text + below * (1 + gap / 3)
            shown = image if image.shape[2] == 3 else image[:, :, 0]
            axis.imshow(shown, extent=(left, left + 1, edge + 1, edge), cmap="gray", vmin=0, vmax=255)
    axis.set(xlim=(0, width), ylim=(height, 0))
    return pixels_of(figure)


def _verdict(pairs: Pairs, index: int, names: Sequence[str]) -> tuple[str, str]:
    """Return what is written above a pair, and its colour."""
    label, truth = int(pairs.label[index]), int(pairs.truth[index])
    counts = pairs.weight[index] > 0
    said = f"{names[label]} \N{MIDDLE DOT} {pairs.confidence[index]:.2f}"
    if truth < 0:
        known, colour = "?", UNDECIDED
    elif truth == label:
        known, colour = "\N{CHECK MARK}", RIGHT
    else:
        known, colour = f"\N{BALLOT X} {names[truth]}", WRONG
    return f"{said}\n{known if counts else f'({known})'}", colour if counts else UNDECIDED


# ------------------------------------------------------------------------------------------------------------ classes


def class_accuracies(confusion: Sequence[Sequence[int]]) -> list[float]:
    """Return the share of each true class that is predicted right; 0 for a class without images.

    Args:
        confusion: ``K x K`` counts, rows are true classes and columns predictions.

    Example:
        >>> class_accuracies([[3, 1], [0, 2]])
        [0.75, 1.0]
    """
    return [row[index] / max(sum(row), 1) for index, row in enumerate(confusion)]


def per_class_bars(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """Return the accuracy of each class as a bar, the worst first; of many classes, the worst.

    Args:
        confusion: ``K x K`` counts, rows are true classes and columns predictions.
        classes: The names of the classes.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from matplotlib.figure import Figure

    names = names_in_figure(classes, width=BAR_WIDTH)
    ranked = sorted(zip(class_accuracies(confusion), classes, names, strict=True))[:MOST_BARS]
    which = "each class" if len(ranked) == len(classes) else f"the {len(ranked)} worst of {len(classes)} classes"
    figure = Figure(figsize=(6.0, 1.0 + 0.24 * len(ranked)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh(range(len(ranked)), [accuracy for accuracy, *_ in ranked], color=RIGHT, height=0.7)
    axis.set_yticks(range(len(ranked)), [name for *_, name in ranked], fontsize=8)
    axis.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=8)
    axis.set(xlim=(0, 1.12), ylim=(len(ranked) - 0.4, -0.6), xlabel="accuracy")
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_title(f"{TEST_ACCURACY_EMA.title}: {which}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return pixels_of(figure)
