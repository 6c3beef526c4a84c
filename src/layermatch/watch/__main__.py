"""Follow a run from another terminal until it is finished, or see how it ended."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

from rich.console import Console, RenderableType
from rich.live import Live

from layermatch.arguments import OneLineParser, start_command
from layermatch.errors import UserError, check_number
from layermatch.output import SteadyStream
from layermatch.paths import argument_path, is_folder
from layermatch.runs.layout import outputs_in
from layermatch.runs.search import newest_run
from layermatch.text import printable
from layermatch.watch.frame import draw
from layermatch.watch.watcher import Snapshot, Watcher

__all__ = ["main", "watch"]


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m layermatch.watch", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "run_dir",
        type=argument_path,
        metavar="RUN_DIR",
        help="directory of a run, or of several: then the newest",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="the newest run that meets it, as in python -m layermatch.runs",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and end")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks (%(default)s)")
    parser.add_argument("--ascii", action="store_true", help="no other signs; the default where the terminal has none")
    return parser


def watch(arguments: Sequence[str] | None, console: Console) -> None:
    """Show a run until it is finished.

    Args:
        arguments: The arguments of the command line; None takes the process's.
        console: The console that frames are drawn on. Without a terminal, a frame is printed whenever the run made a
            step.

    Raises:
        UserError: An argument is not legal.
    """
    given = _parser().parse_args(arguments)
    check_number("--every", given.every, low=0.05, high=3600)
    if not is_folder(given.run_dir):
        raise UserError(f"{printable(given.run_dir)} is no folder: give the directory of a run")
    watcher = Watcher(_run_of(given.run_dir, given.where))
    is_ascii = given.ascii or not console.encoding.lower().startswith("utf")

    def frame(snapshot: Snapshot, *, height: int | None) -> RenderableType:
        return draw(snapshot, width=console.width, height=height, is_ascii=is_ascii)

    snapshot = watcher.look()
    if not given.once and snapshot.state.kind != "finished":
        follow = _follow_live if console.is_terminal and not console.is_dumb_terminal else _follow_plain
        with _ctrl_c() as pressed:
            follow(watcher, console, frame, every=given.every, end=pressed)
        snapshot = watcher.look()
    console.print(frame(snapshot, height=None), highlight=False)


def _run_of(folder: Path, conditions: Sequence[str]) -> Path:
    """Return the folder itself where it is a run's; otherwise the newest run in it that meets all conditions."""
    if not conditions and outputs_in(folder):
        return folder
    newest = newest_run(folder, conditions)
    if newest is None and conditions:
        raise UserError(f"--where: no run in {printable(folder)} meets {' and '.join(map(printable, conditions))}")
    return newest or folder


@contextmanager
def _ctrl_c() -> Iterator[Event]:
    """Give an event that is set when Ctrl-C is pressed.

    As an exception it would be lost where Python cannot raise one, as in a finaliser. The second one is raised: the
    terminal may take no more output.
    """
    pressed = Event()
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, _stack: FrameType | None) -> None:
        pressed.set()
        signal.signal(number, before)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        if signal.getsignal(signal.SIGINT) is press:
            signal.signal(signal.SIGINT, before)


def _follow_live(
    watcher: Watcher, console: Console, frame: Callable[..., RenderableType], *, every: float, end: Event
) -> None:
    snapshot = watcher.look()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while snapshot.state.kind != "finished" and not end.is_set() and _is_read(console):
            live.update(frame(snapshot, height=console.height), refresh=True)
            end.wait(every)
            snapshot = watcher.look()


def _follow_plain(
    watcher: Watcher, console: Console, frame: Callable[..., RenderableType], *, every: float, end: Event
) -> None:
    snapshot = watcher.look()
    seen: tuple[object, ...] = ()
    while snapshot.state.kind != "finished" and not end.is_set() and _is_read(console):
        now = (snapshot.step, snapshot.state.kind)
        if now != seen:
            console.print(frame(snapshot, height=None), "", highlight=False)
            seen = now
        end.wait(every)
        snapshot = watcher.look()


def _is_read(console: Console) -> bool:
    """Return whether there is somebody to follow the run for: a pipe's reader may leave, and a terminal be closed."""
    return not (isinstance(console.file, SteadyStream) and console.file.lost)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2, Ctrl-C is no mistake.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    try:
        start_command(watch, arguments)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
