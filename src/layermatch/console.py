"""What a run tells its user: on the terminal, and the same as plain lines in the run's log file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType
from rich.table import Table
from rich.tree import Tree

from layermatch.distributed import is_rank_zero

__all__ = ["Reporter", "settings_tree", "table"]

_log = logging.getLogger(__name__)

LOG_WIDTH = 120


class Reporter:
    """Writes to the terminal and to a log file; silent on every rank but 0.

    Args:
        log_file: written from its end on; None writes to the terminal only.
        terminal: where else to write; None is standard output, with colour where it has it.
    """

    def __init__(self, log_file: Path | None = None, *, terminal: Console | None = None) -> None:
        self.terminal = terminal or _terminal()
        self._file = None
        if log_file is not None and is_rank_zero():
            self._file = log_file.open("a", encoding="utf-8")

    @property
    def is_interactive(self) -> bool:
        """Whether the terminal can redraw a line."""
        return self.terminal.is_terminal and not self.terminal.is_dumb_terminal and is_rank_zero()

    @rank_zero_only
    def show(self, content: RenderableType) -> None:
        """Write text, a table or a tree."""
        self.terminal.print(content, highlight=False)
        self.log(content)

    @rank_zero_only
    def warn(self, text: str) -> None:
        """Write a warning, in one line however long it is."""
        line = f"warning: {text}"
        self.terminal.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        if self._file is not None:
            self._file.write(f"{line}\n")
            self._file.flush()

    @rank_zero_only
    def log(self, content: RenderableType) -> None:
        """Write to the log file only."""
        if self._file is None:
            return
        try:
            Console(file=self._file, width=LOG_WIDTH, no_color=True).print(content, highlight=False)
            self._file.flush()
        except OSError as error:
            self._file = None  # not closed: that would try to write again
            _log.warning("the log file cannot be written (%s): the run goes on without", error.strerror)

    def close(self) -> None:
        """Close the log file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _terminal() -> Console:
    console = Console()
    # A pipe has no width; 80 columns would cut the tables in two.
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def settings_tree(settings: Mapping[str, Any], *, title: str) -> Tree:
    """A configuration as a tree.

    Args:
        settings: section -> key -> value.
        title: of the root.
    """
    tree = Tree(f"[bold]{title}[/bold]")
    _grow(tree, settings)
    return tree


def _grow(tree: Tree, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            _grow(tree.add(f"[bold]{key}[/bold]"), value)
        else:
            tree.add(f"{key}: {_plain(value)}")


def _plain(value: object) -> str:
    text = {None: "null", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    return text if text is not None else str(value).replace("[", r"\[")


def table(title: str, rows: Mapping[str, str] | list[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> Table:
    """A table of text.

    Args:
        title: above it.
        rows: name to value, or rows as long as ``header``.
        header: of the columns; empty for none.
    """
    made = Table(title=title, title_justify="left", title_style="bold", show_header=bool(header))
    cells = [tuple(row) for row in (rows.items() if isinstance(rows, Mapping) else rows)]
    for number, name in enumerate(header or ("",) * len(cells[0])):
        made.add_column(name, justify="left" if number == 0 else "right" if header else "left", overflow="fold")
    for row in cells:
        made.add_row(*row)
    return made
