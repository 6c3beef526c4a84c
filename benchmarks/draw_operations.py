"""Draw ``docs/operations.png``: a photograph under every operation, ours beside PIL's and their difference.

``python benchmarks/draw_operations.py`` from the top of a checkout.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")  # no window is needed

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor

from layermatch.augment import OPERATIONS, apply_operation
from layermatch.bench import pil_pipeline

TARGET = Path(__file__).parents[1] / "docs" / "operations.png"
SIZE = 96
#: Where in an operation's range: both ends and a place between that is neither the middle nor a whole number.
PLACES = (0.0, 0.37, 1.0)
NO_MAGNITUDE = {"autocontrast", "equalize", "identity", "invert"}


def photograph() -> Tensor:
    """Return part of scikit-learn's flower, at a quarter of its size, uint8 (1, 3, 96, 96)."""
    picture = torch.tensor(load_sample_images().images[1]).permute(2, 0, 1)[None, :, 20:404, 100:484].float()
    return torch.nn.functional.avg_pool2d(picture, 384 // SIZE).round().to(torch.uint8)


def versions(image: Tensor, name: str, place: float) -> tuple[float, Tensor, Tensor]:
    """Return the magnitude, our image and PIL's."""
    _, low, high = OPERATIONS[name]
    magnitude = low + (high - low) * place
    ours = apply_operation(name, image, magnitude)
    function = pil_pipeline.OPERATIONS[name][0]
    theirs = pil_pipeline.to_batch([function(pil_pipeline.to_images(image)[0], magnitude)])
    return magnitude, ours, theirs


def show(axes: Axes, image: Tensor, title: str) -> None:
    """Show one picture without ticks."""
    axes.imshow(image[0].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=8, pad=2)
    axes.set_axis_off()


def difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the absolute difference in levels, 32 times as bright."""
    return ((ours.int() - theirs.int()).abs() * 32).clamp(max=255).to(torch.uint8)


def draw(image: Tensor) -> Figure:
    """Draw two operations a row; three magnitudes each, as ours, PIL's and their difference."""
    names = list(OPERATIONS)
    rows = -(-len(names) // 2)
    figure, grid = plt.subplots(rows, 19, figsize=(19.2, 1.32 * rows + 0.5), width_ratios=[1] * 9 + [0.35] + [1] * 9)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, name in enumerate(names):
        row, first = number // 2, 10 * (number % 2)
        for step, place in enumerate(PLACES[:1] if name in NO_MAGNITUDE else PLACES):
            magnitude, ours, theirs = versions(image, name, place)
            at = "" if name in NO_MAGNITUDE else f" {magnitude:.3g}"
            worst = int((ours.int() - theirs.int()).abs().max())
            column = first + 3 * step
            show(grid[row, column], ours, f"{name}{at}")
            show(grid[row, column + 1], theirs, "PIL")
            show(grid[row, column + 2], difference(ours, theirs), f"largest diff. {worst}")
    figure.suptitle(
        "Every operation at three magnitudes, where it has one: ours, PIL's, and their difference in levels x 32 "
        "(black: equal)",
        fontsize=10,
    )
    figure.tight_layout(pad=0.3, w_pad=0.2, h_pad=0.4, rect=(0, 0, 1, 0.98))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write with 256 colours: the file is in the repository, and the differences were computed before."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=75)
    picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(draw(photograph()), TARGET)
