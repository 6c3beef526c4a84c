"""Standard output and standard error that end no run: whoever reads them may leave, and may know few characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, Any, TextIO, cast

from rich.console import Console

__all__ = ["PIPE_WIDTH", "SteadyStream", "steady", "steady_output", "terminal"]

#: A pipe has no width; 80 columns would cut the tables in two.
PIPE_WIDTH = 120

#: What this package writes beside ASCII, for terminals that have no more.
PLAIN_SIGNS = str.maketrans(
    {
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{PLUS-MINUS SIGN}": "+-",
        "\N{NO-BREAK SPACE}": " ",
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{REPLACEMENT CHARACTER}": "?",
    }
)


class SteadyStream:
    r"""A stream of text that takes everything.

    What it cannot show is written as an escape. Once it takes no more, as a pipe whose reader has left, a terminal that
    was closed or a file on a full disk, what is written is lost, and ``lost`` says why.

    Args:
        stream: The stream to write to.

    Example:
        >>> import io
        >>> screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        >>> SteadyStream(screen).write("5 \N{PLUS-MINUS SIGN} 1 in pictures/\N{LATIN SMALL LETTER A WITH DIAERESIS}")
        19
        >>> screen.flush()
        >>> screen.buffer.getvalue()
        b'5 +- 1 in pictures/\\xe4'
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        #: Why nothing more is written; empty as long as it is.
        self.lost = ""

    def write(self, text: str) -> int:
        """Write what can be written of a text; its length."""
        if not self.lost:
            with self._noting_loss():
                self.stream.write(self._shown(text))
        return len(text)

    def flush(self) -> None:
        """Send on what has been written."""
        if not self.lost:
            with self._noting_loss():
                self.stream.flush()

    def _shown(self, text: str) -> str:
        encoding = self.stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.translate(PLAIN_SIGNS).encode(encoding, "backslashreplace").decode(encoding)
        return text

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a ValueError: the stream is closed
            self.lost = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._drain()

    def _drain(self) -> None:
        """Let the interpreter get rid of what the stream still holds when it ends: else its status would be 120."""
        with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def steady(stream: TextIO | None) -> IO[str]:
    """Return a stream that is a :class:`SteadyStream`, or is made one.

    Args:
        stream: Standard output or error as they are now; None where the process was started without.
    """
    stream = getattr(stream, "rich_proxied_file", stream)  # while a progress bar is on the terminal
    if isinstance(stream, SteadyStream):
        return cast("IO[str]", stream)
    return cast("IO[str]", SteadyStream(stream or Path(os.devnull).open("w", encoding="utf-8")))


@contextmanager
def steady_output() -> Iterator[None]:
    """Make standard output and standard error :class:`SteadyStream` for as long as this lasts.

    For a command line as a whole; also as a decorator.
    """
    with redirect_stdout(steady(sys.stdout)) as out, redirect_stderr(steady(sys.stderr)) as err:
        try:
            yield
        finally:
            out.flush()
            err.flush()


def terminal() -> Console:
    """Give standard output, as wide as it is."""
    stream = steady(sys.stdout)
    console = Console(file=stream)
    return console if console.is_terminal else Console(file=stream, width=PIPE_WIDTH)
