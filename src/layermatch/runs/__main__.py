"""List, choose, compare and tidy run directories."""

from __future__ import annotations

from collections.abc import Sequence

from layermatch.arguments import start_command
from layermatch.runs.command import list_runs

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    start_command(list_runs, arguments)


if __name__ == "__main__":
    main()
