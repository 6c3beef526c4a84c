"""TensorBoard's event files, with settings, pictures and results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from layermatch.dashboards.base import About, Dashboard
from layermatch.runs.settings import flatten

__all__ = ["TensorBoardDashboard"]


class TensorBoardDashboard(TensorBoardLogger, Dashboard):
    """Lightning's TensorBoardLogger, which also takes settings, pictures and results; it is constructed like that."""

    @rank_zero_only
    def begin(self, about: About) -> None:
        """Show the settings as text."""
        text = yaml.safe_dump(dict(about.settings), sort_keys=False)
        self.experiment.add_text("settings", _as_code(text), global_step=0)

    @rank_zero_only
    def show_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int, caption: str = "") -> None:  # noqa: ARG002 -- TensorBoard has none
        """Show a picture; see :class:`Dashboard`."""
        self.experiment.add_image(name, pixels, global_step=step, dataformats="HWC")

    @rank_zero_only
    def show_results(self, results: Mapping[str, Any]) -> None:
        """Show the final figures as a table."""
        shown = {key: value for key, value in results.items() if key not in {"classes", "confusion"}}
        rows = [f"| {key} | {value} |" for key, value in flatten(shown).items() if value is not None]
        table = "\n".join(["| figure | value |", "|---|---|", *rows])
        self.experiment.add_text("results", table, global_step=results["steps"])

    @rank_zero_only
    def close(self, *, failed: bool) -> None:
        """Close the event file."""
        self.finalize("failed" if failed else "success")


def _as_code(text: str) -> str:
    """Write Markdown that shows a text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
