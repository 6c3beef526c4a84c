"""What every dashboard is told, and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from layermatch.catalogue import Catalogue
from layermatch.dashboards.naming import changes_of
from layermatch.dashboards.pictures import per_class_bars, read_picture
from layermatch.metrics import CATALOGUE, FIGURE

__all__ = ["About", "Dashboard", "begin", "close", "dashboards_of", "show_results"]


@dataclass(frozen=True)
class About:
    """What a run is, for those who look at it later.

    Attributes:
        settings: The composed configuration.
        changes: The changes of the command line; see :func:`~layermatch.dashboards.naming.changes_of`.
        sweep: The folder of the sweep that the run is a job of; empty where there is none.
        run_id: The id of the W&B run that is continued; None starts one.
        catalogue: The catalogue that says what the curves are.
    """

    settings: Mapping[str, Any]
    changes: tuple[str, ...] = ()
    sweep: str = ""
    run_id: str | None = None
    catalogue: Catalogue = CATALOGUE

    @property
    def experiment(self) -> str:
        """``name`` of the configuration."""
        return str(self.settings["name"])

    @property
    def algorithm(self) -> str:
        """``algorithm.name`` of the configuration."""
        return str(self.settings["algorithm"]["name"])


class Dashboard(ABC):
    """A logger that also takes settings, pictures and results. Silent on every rank but 0."""

    def check(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 -- most have nothing to refuse
        """Refuse settings that do not go with the dashboard's own. Called before anything is written.

        Args:
            settings: The composed configuration.

        Raises:
            UserError: The settings do not go with the dashboard's own.
        """

    @abstractmethod
    def begin(self, about: About) -> None:
        """Start, and show the settings. Called once, before training."""

    @abstractmethod
    def show_picture(self, name: str, pixels: NDArray[np.uint8], *, step: int, caption: str = "") -> None:
        """Show a picture.

        Args:
            name: ``group/name``; one name is one panel with a picture per step.
            pixels: ``(H, W, 3)`` uint8.
            step: The optimizer steps done.
            caption: What the picture shows.
        """

    @abstractmethod
    def show_results(self, results: Mapping[str, Any]) -> None:
        """Show the final figures of a run, the content of its ``results.json``."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Send what is left, and end.

        Args:
            failed: Whether the run ended with an error.
        """


def dashboards_of(loggers: Iterable[Logger]) -> list[Dashboard]:
    """Return those of the loggers that are dashboards."""
    return [logger for logger in loggers if isinstance(logger, Dashboard)]


def begin(
    loggers: Iterable[Logger],
    settings: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    sweep: str = "",
    run_id: str | None = None,
    catalogue: Catalogue = CATALOGUE,
) -> None:
    """Start the dashboards among the loggers.

    Args:
        loggers: The loggers of the run.
        settings: The composed configuration.
        overrides: What the command line changed in it.
        sweep: The folder of the sweep that the run is a job of.
        run_id: The id of the W&B run that is continued.
        catalogue: The catalogue that says what the curves are.
    """
    about = About(settings, changes_of(overrides), sweep, run_id, catalogue)
    for dashboard in dashboards_of(loggers):
        dashboard.begin(about)


@rank_zero_only
def show_results(loggers: Iterable[Logger], results: Mapping[str, Any], figures: Path | None) -> None:
    """Show what a finished run leaves behind.

    Args:
        loggers: The loggers of the run.
        results: The content of ``results.json``; ``classes`` and ``confusion`` in it may be missing.
        figures: The folder of the run's pictures; None where it has drawn none.
    """
    dashboards = dashboards_of(loggers)
    if not dashboards:
        return
    paths = [] if figures is None else sorted(figures.glob("*.png"))
    pictures = {FIGURE.of(path.stem): read_picture(path) for path in paths}
    if results.get("confusion"):
        pictures[FIGURE.of("per_class")] = per_class_bars(results["confusion"], results["classes"])
    for dashboard in dashboards:
        for name, pixels in pictures.items():
            dashboard.show_picture(name, pixels, step=results["steps"])
        dashboard.show_results(results)


def close(loggers: Iterable[Logger], *, failed: bool) -> None:
    """End the dashboards among the loggers; see :meth:`Dashboard.close`."""
    for dashboard in dashboards_of(loggers):
        dashboard.close(failed=failed)
