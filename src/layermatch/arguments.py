"""Command lines over argparse, for the commands that read no configuration: one-line errors and exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from layermatch.errors import RunError, UserError
from layermatch.output import steady_output, terminal

__all__ = ["OneLineParser", "start_command"]


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage; :func:`start_command` prints it."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UserError: Always.
        """
        raise UserError(message)


@steady_output()
def start_command(task: Callable[[Sequence[str] | None, Console], None], arguments: Sequence[str] | None) -> None:
    """Run a command; a mistake of the user is one line on standard error and status 2.

    Args:
        task: The command, which takes the arguments and the console that it prints on.
        arguments: The arguments of the command line; None takes the process's.
    """
    try:
        task(arguments, terminal())
    except (UserError, RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.status)
