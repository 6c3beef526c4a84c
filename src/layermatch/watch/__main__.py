"""Follow a run from another terminal until it is finished, or see how it ended."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console, RenderableType
from rich.live import Live

from layermatch.cli import EXIT_USER_ERROR
from layermatch.errors import UserError, check_number
from layermatch.report.text import printable
from layermatch.watch.frame import draw
from layermatch.watch.watcher import Snapshot, Watcher

__all__ = ["main", "watch"]

#: A pipe has no width; 80 columns would cut the log in two.
PIPE_WIDTH = 120


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave it to :func:`main` to print one line, without the usage."""
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m layermatch.watch", description=__doc__, allow_abbrev=False)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="directory of a run")
    parser.add_argument("--once", action="store_true", help="print one frame and end")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks (%(default)s)")
    parser.add_argument("--ascii", action="store_true", help="no other signs; the default where the terminal has none")
    return parser


def watch(arguments: Sequence[str] | None, console: Console) -> None:
    """Show a run until it is finished.

    Args:
        arguments: of the command line; None takes the process's.
        console: where to. Without a terminal, a frame is printed whenever the run made a step.

    Raises:
        UserError: an argument is not legal.
    """
    given = _parser().parse_args(arguments)
    check_number("--every", given.every, low=0.05, high=3600)
    if not given.run_dir.is_dir():
        raise UserError(f"{printable(given.run_dir)} is no folder: give the directory of a run")
    watcher = Watcher(given.run_dir)
    is_ascii = given.ascii or not console.encoding.lower().startswith("utf")

    def frame(snapshot: Snapshot, *, height: int | None) -> RenderableType:
        return draw(snapshot, width=console.width, height=height, is_ascii=is_ascii)

    snapshot = watcher.look()
    if not given.once and snapshot.state.kind != "finished":
        follow = _follow_live if console.is_terminal and not console.is_dumb_terminal else _follow_plain
        with suppress(KeyboardInterrupt):
            follow(watcher, console, frame, every=given.every)
        snapshot = watcher.look()
    console.print(frame(snapshot, height=None), highlight=False)


def _follow_live(watcher: Watcher, console: Console, frame: Callable[..., RenderableType], *, every: float) -> None:
    snapshot = watcher.look()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while snapshot.state.kind != "finished":
            live.update(frame(snapshot, height=console.height), refresh=True)
            time.sleep(every)
            snapshot = watcher.look()


def _follow_plain(watcher: Watcher, console: Console, frame: Callable[..., RenderableType], *, every: float) -> None:
    snapshot = watcher.look()
    seen: tuple[object, ...] = ()
    while snapshot.state.kind != "finished":
        now = (snapshot.step, snapshot.state.kind)
        if now != seen:
            console.print(frame(snapshot, height=None), "", highlight=False)
            seen = now
        time.sleep(every)
        snapshot = watcher.look()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; a mistake of the user is one line on standard error and status 2, Ctrl-C is no mistake.

    Args:
        arguments: of the command line; None takes the process's.
    """
    console = Console()
    try:
        watch(arguments, console if console.is_terminal else Console(width=PIPE_WIDTH))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(EXIT_USER_ERROR)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)


if __name__ == "__main__":
    main()
