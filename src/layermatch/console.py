"""What a run tells its user: on the terminal, and the same as plain lines in the run's log file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from layermatch.distributed import is_rank_zero
from layermatch.output import PIPE_WIDTH, SteadyStream
from layermatch.output import terminal as standard_output
from layermatch.text import printable

__all__ = ["Reporter", "settings_tree", "table"]

_log = logging.getLogger(__name__)


class Reporter:
    """Writes to the terminal and to a log file; silent on every rank but 0.

    Args:
        log_file: The log file, written from its end on; None writes to the terminal only.
        terminal: The terminal to write to as well; None is standard output, with colour where it has it.
    """

    def __init__(self, log_file: Path | None = None, *, terminal: Console | None = None) -> None:
        self.terminal = terminal or standard_output()
        self._file = None
        self._has_said_lost = False
        if log_file is not None and is_rank_zero():
            self._file = log_file.open("a", encoding="utf-8", errors="backslashreplace")

    @property
    def is_interactive(self) -> bool:
        """Whether the terminal can redraw a line."""
        return self.terminal.is_terminal and not self.terminal.is_dumb_terminal and is_rank_zero()

    @rank_zero_only
    def show(self, content: RenderableType) -> None:
        """Write a line of text as it is, a table or a tree."""
        _print(self.terminal, content)
        self.log(content)
        self._say_lost()

    @rank_zero_only
    def warn(self, text: str) -> None:
        """Write a warning, in one line however long it is."""
        line = f"warning: {text}"
        _print(self.terminal, Text(printable(line), style="yellow"))
        self.log(line)
        self._say_lost()

    @rank_zero_only
    def log(self, content: RenderableType) -> None:
        """Write to the log file only."""
        if self._file is None:
            return
        try:
            _print(Console(file=self._file, width=PIPE_WIDTH, no_color=True), content)
            self._file.flush()
        except OSError as error:
            self._file = None  # not closed: that would try to write again
            _log.warning("the log file cannot be written (%s): the run goes on without", error.strerror)

    def _say_lost(self) -> None:
        """Say once, where it can still be read, that nobody reads standard output any more."""
        stream = self.terminal.file
        if self._file is not None and not self._has_said_lost and isinstance(stream, SteadyStream) and stream.lost:
            self._has_said_lost = True
            line = f"standard output takes no more ({stream.lost}): the run goes on, {self._file.name} has every line"
            self.log(f"warning: {line}")
            _log.warning(line)

    def close(self) -> None:
        """Close the log file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _print(console: Console, content: RenderableType) -> None:
    """Print a text as it is, in one line however long: its brackets are no style. Anything else fits the width."""
    is_text = isinstance(content, str | Text)
    content = Text(printable(content)) if isinstance(content, str) else content
    console.print(content, highlight=False, soft_wrap=is_text)


def settings_tree(settings: Mapping[str, Any], *, title: str) -> Tree:
    """Return a configuration as a tree.

    Args:
        settings: Section -> key -> value.
        title: The title of the root.
    """
    tree = Tree(Text(printable(title), style="bold"))
    _grow(tree, settings)
    return tree


def _grow(tree: Tree, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            _grow(tree.add(Text(printable(key), style="bold")), value)
        else:
            tree.add(Text(printable(f"{key}: {_plain(value)}")))


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def table(title: str, rows: Mapping[str, str] | list[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> Table:
    """Return a table of text.

    Args:
        title: The title above the table.
        rows: The rows: name to value, or as long as ``header``.
        header: The header of the columns; empty for none.
    """
    made = Table(title=Text(printable(title), style="bold"), title_justify="left", show_header=bool(header))
    cells = [tuple(row) for row in (rows.items() if isinstance(rows, Mapping) else rows)]
    for number, name in enumerate(header or ("",) * len(cells[0])):
        justify: JustifyMethod = "left" if number == 0 or not header else "right"
        made.add_column(Text(printable(name)), justify=justify, overflow="fold")
    for row in cells:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made
