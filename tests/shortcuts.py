"""What the runs of tests leave out, as it takes most of the time of a few steps, and none of it is ours.

A run of the tests goes through all of :mod:`layermatch.figures`, with its own data, names and files, but draws on
nothing and writes a blank picture, unless the test is marked ``pictures``. And Hydra composes the configuration once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from PIL import Image

from layermatch import figures

_file = BytesIO()
Image.new("RGB", (4, 3), "white").save(_file, "PNG")
BLANK = _file.getvalue()


class Nothing:
    """A figure or an axis: takes whatever is drawn on it, and shows none of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __call__(self, *_: Any, **__: Any) -> Nothing:
        return Nothing()


def _subplots(rows: int, columns: int, **_: Any) -> tuple[Nothing, Any]:
    axes = np.empty((rows, columns), dtype=object)
    for place in np.ndindex(rows, columns):
        axes[place] = Nothing()
    return Nothing(), axes


def _save(_: Nothing, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BLANK)


def draw_nothing(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have all pictures of this process blank."""
    put(figures, "_subplots", _subplots)
    put(figures, "_save", _save)


@contextmanager
def blank() -> Iterator[None]:
    """Have all pictures blank in here."""
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch.setattr)
        yield


_get_mode = Hydra.get_mode


def _mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """What Hydra composes everything for, a second time: ``hydra.mode``, of which our configuration says nothing."""
    is_given = any("hydra" in override for override in overrides)
    return _get_mode(self, config_name, overrides) if is_given else None


def compose_once(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have Hydra compose the configuration of a command once."""
    put(Hydra, "get_mode", _mode)
