"""Figures show the names of classes as they are, and print nothing while they are drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.image import imread
from rich.cells import cell_len

from layermatch import figure_text
from layermatch.callbacks import PredictionTable
from layermatch.dashboards.pictures import Pairs, per_class_bars, views_panel
from layermatch.data.sources import Digits, ImageSet
from layermatch.figure_text import fonts_for, names_in_figure
from layermatch.figures import draw_confusion, draw_curves, draw_mistakes
from layermatch.loggers import MetricsCsv

pytestmark = pytest.mark.pictures

#: Three names each.
ODD = {
    "formula": ("$x_$", "5$ to 6$", "$\\frac$"), "backslash": ("\\$", "\\alpha", "a\\"),
    "underscore": ("_a", "__", "_"),
    "chinese": ("猫", "犬", "鳥"), "pictures": ("🐈", "🐕️", "🐈‍⬛"), "arabic": ("قطة", "כלב", "अ"),
    "long": ("x" * 200 + "1", "x" * 200 + "2", "猫" * 200), "controls": ("a\nb", "a\tb", "\x1b[2J"),
    "half": ("caf\udce9", "\ud800", "a"), "percent": ("100 %", "%s", "{x}"), "blank": (" ", "\u3000", ""),
}  # fmt: skip


def every_figure(names: tuple[str, ...], folder: Path) -> list[Path]:
    """All figures with names of classes in them, drawn into a folder."""
    counts = torch.tensor([[3, 1, 0], [0, 3, 1], [1, 0, 3]])
    draw_confusion(counts, names, folder / "confusion.png")
    logger = MetricsCsv(folder)
    for step in (1, 2, 3):
        logger.log_metrics({f"pseudo_labels/per_class_counts/{name}": float(step) for name in names}, step=step)
    draw_curves(logger.path, folder)
    images = Digits().load().test
    assert images is not None
    three = ImageSet(images.images, np.arange(len(images)) % 3)
    label = torch.from_numpy(three.labels)
    table = PredictionTable(torch.arange(len(label)), label, (label + 1) % 3, torch.linspace(0.3, 1, len(label)))
    draw_mistakes(table, three, names, folder / "mistakes.png", rows=1, columns=3)
    per_class_bars(counts.tolist(), names)
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    pairs = Pairs(pixels, pixels, np.arange(3), np.ones(3), np.ones(3), np.array([0, 0, -1]))
    views_panel(pairs, names, title="views")
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("kind", ODD)
def test_figures_are_drawn_without_a_word(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    drawn = every_figure(ODD[kind], tmp_path)
    assert [path.stem for path in drawn] == ["confusion", "mistakes", "pseudo_labels"]
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def cells_of(picture: Path) -> int:
    """Pixels of the darkest cells of a confusion matrix."""
    pixels = imread(picture)[..., :3]
    return int((np.abs(pixels - pixels[pixels[..., 2] < 0.5].mean(axis=0)).max(axis=-1) < 0.1).sum())


def test_long_names_leave_a_matrix_its_room(tmp_path: Path) -> None:
    counts = torch.eye(3).long()
    draw_confusion(counts, ("a", "b", "c"), tmp_path / "short.png")
    draw_confusion(counts, ODD["long"], tmp_path / "long.png")
    assert cells_of(tmp_path / "long.png") > 0.5 * cells_of(tmp_path / "short.png")


@pytest.mark.parametrize("names", [*ODD.values(), ("a\x01", "a\x02", "a\x03"), ("x" * 30,) * 3, ("a", "b", "c")])
@pytest.mark.parametrize("width", [10, 16, 24])
def test_names_are_short_and_told_apart(names: tuple[str, ...], width: int) -> None:
    shown = names_in_figure(names, width=width)
    assert len(set(shown)) == len(names)
    assert all(cell_len(name.replace("\\$", "$")) <= width + 1 for name in shown)  # 1: the hair space


def test_plain_names_stay_as_they_are() -> None:
    assert names_in_figure(("cat", "Größe", "猫", "a b"), width=10) == ["cat", "Größe", "猫", "a b"]


# --------------------------------------------------------------------------------------------------------------- fonts


def make_font(path: Path, family: str, letters: str) -> None:
    """A font file whose letters are filled squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    glyphs = [".notdef", *(f"letter{number}" for number in range(len(letters)))]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap({ord(letter): f"letter{number}" for number, letter in enumerate(letters)})
    font.setupGlyf(dict.fromkeys(glyphs, square))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2(sTypoAscender=800, usWeightClass=400)
    font.setupPost()
    font.save(path)


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """``install(family, letters)``: a font of this system, for one test."""
    fonts = font_manager.fontManager
    before = list(fonts.ttflist)

    def add(family: str, letters: str) -> None:
        path = tmp_path / f"{family}.ttf"
        make_font(path, family, letters)
        fonts.addfont(path)
        figure_text._further_families.cache_clear()

    yield add
    fonts.ttflist[:] = before
    fonts._findfont_cached.cache_clear()
    figure_text._further_families.cache_clear()


def test_letters_are_taken_from_the_fonts_of_the_system(install: Callable[[str, str], None]) -> None:
    install("First", "猫犬")
    install("Second", "🐈")
    install("Third", "猫")
    install("LastResort", "猫犬🐈ℵ")
    usual = fonts_for("cat")
    assert fonts_for("猫犬") == [*usual, "First"]
    assert fonts_for("a 🐈 and a 猫") == [*usual, "First", "Second"]
    assert fonts_for("鳥") == usual


def test_a_figure_uses_them(install: Callable[[str, str], None], tmp_path: Path) -> None:
    names, counts = ("猫猫猫", "犬犬犬", "c"), torch.eye(3).long()
    draw_confusion(counts, names, tmp_path / "boxes.png")
    install("First", "猫犬")
    draw_confusion(counts, names, tmp_path / "letters.png")
    dark = [int((imread(tmp_path / f"{name}.png")[..., :3].max(axis=-1) < 0.2).sum()) for name in ("boxes", "letters")]
    assert dark[1] > dark[0] + 500  # the squares are filled


def test_a_font_that_is_damaged_or_gone_is_passed_over(install: Callable[[str, str], None], tmp_path: Path) -> None:
    install("First", "猫")
    install("Second", "猫")
    (tmp_path / "First.ttf").write_bytes(b"no font")
    assert fonts_for("猫")[-1] == "Second"
    shutil.copy(tmp_path / "Second.ttf", tmp_path / "First.ttf")
    (tmp_path / "Second.ttf").unlink()
    figure_text._further_families.cache_clear()
    assert fonts_for("猫")[-1] == "First"
