"""Names of classes in figures: as text, short enough, and in fonts that have their characters."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.cells import cell_len

from layermatch.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["fonts_for", "names_in_figure", "save_figure", "short_names", "shorten"]

#: Characters that choose the look of the one before, where there is a choice; most fonts have no glyph for them.
_VARIATION = re.compile("[\N{VARIATION SELECTOR-1}-\N{VARIATION SELECTOR-16}]")

#: A font that has a sign for every character, which tells of what kind it is and not which.
LAST_RESORT = re.compile(r"\.?last ?resort", re.IGNORECASE)


def names_in_figure(names: Sequence[str], *, width: int) -> list[str]:
    r"""Return the names as they are written in a figure: matplotlib takes what is between two ``$`` for a formula.

    Args:
        names: The names; any text.
        width: The most letters, as :func:`short_names` takes it.

    Example:
        >>> names_in_figure(["cat", "$5 to $6"], width=9)
        ['cat', '\\$5 to \\$6']
    """
    # A legend leaves out what begins with an underscore.
    return [
        ("\N{HAIR SPACE}" if name.startswith("_") else "") + name.replace("$", r"\$")
        for name in short_names([_VARIATION.sub("", name) for name in names], width=width)
    ]


def short_names(names: Sequence[str], *, width: int) -> list[str]:
    """Shorten names to so many letters, without control characters; what is not the same does not look the same.

    Args:
        names: The names; any text.
        width: The most letters of a name. Names that would look the same are cut in their middle, or numbered.

    Example:
        >>> short_names(["cat", "a" * 20 + "1", "a" * 20 + "2"], width=9)
        ['cat', 'aaaa…aaa1', 'aaaa…aaa2']
    """
    plain = [printable(name) for name in names]
    shown = [shorten(name, width) for name in plain]
    shown = [_cut_middle(name, width) if same > 1 else short for name, short, same in _with_counts(plain, shown)]
    numbered = [f"{shorten(short, width - 4)} {number}" for number, short in enumerate(shown, start=1)]
    return [longer if same > 1 else short for longer, short, same in _with_counts(numbered, shown)]


def _with_counts(names: Sequence[str], shown: Sequence[str]) -> Iterable[tuple[str, str, int]]:
    """Return each name, how it is shown, and how many are shown so."""
    counts = Counter(shown)
    return [(name, short, counts[short]) for name, short in zip(names, shown, strict=True)]


def shorten(text: str, width: int) -> str:
    """Return a text in so many letters at most; Chinese, Japanese and Korean ones, and pictures, count as two.

    Args:
        text: Any text.
        width: The most letters, at least 2.

    Example:
        >>> shorten("refrigerator", 6), shorten("\N{CAT FACE}" * 9, 6)
        ('refri…', '🐱🐱…')
    """
    if cell_len(text) <= width:
        return text
    return _start(text, width - 1) + "\N{HORIZONTAL ELLIPSIS}"


def _cut_middle(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{_start(text, half)}\N{HORIZONTAL ELLIPSIS}{_start(text[::-1], half)[::-1]}"


def _start(text: str, width: int) -> str:
    used = 0
    for place, letter in enumerate(text):
        used += cell_len(letter)
        if used > width:
            return text[:place]
    return text


# --------------------------------------------------------------------------------------------------------------- fonts


def fonts_for(text: str) -> list[str]:
    """Return the font families that have the letters of a text between them, the usual one first.

    Args:
        text: Any text. What no font of this machine has is in none of them.
    """
    from matplotlib import font_manager

    usual = font_manager.FontProperties()
    missing = {letter for letter in set(text) if not letter.isspace()}
    missing -= _letters_of(font_manager.findfont(usual), frozenset(missing))
    return [*usual.get_family(), *_further_families(frozenset(missing))]


@cache
def _further_families(missing: frozenset[str]) -> tuple[str, ...]:
    from matplotlib import font_manager

    families: dict[str, str] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: entry.name):
        if entry.style == "normal" and entry.weight in {400, "normal", "regular"} and not LAST_RESORT.match(entry.name):
            families.setdefault(entry.name, entry.fname)
    chosen = []
    for family, path in families.items():
        if not missing:
            break
        found = _letters_of(path, missing)
        if found:
            chosen.append(family)
            missing -= found
    return tuple(chosen)


def _letters_of(path: str | Path, letters: frozenset[str]) -> frozenset[str]:
    """Return those of the letters that a font file has, and can draw: a font of coloured pictures has no outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        font.set_size(10, 100)
        found = frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
        for letter in found:
            font.load_char(ord(letter))
    except (RuntimeError, OSError):  # what FreeType says, and a font that was removed meanwhile
        return frozenset()
    return found


def save_figure(figure: Figure, file: Path | BytesIO, *, dpi: int) -> None:
    """Draw a figure as PNG; a letter that no font of this machine has is a box.

    Args:
        figure: The figure; its texts get the fonts that they need.
        file: The file that the picture is written to.
        dpi: The pixels per inch.
    """
    from matplotlib.text import Text

    texts = cast("list[Text]", figure.findobj(Text))
    families = fonts_for("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(families)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s)Glyph \d+ .* missing from font")
        figure.savefig(file, format="png", dpi=dpi)
