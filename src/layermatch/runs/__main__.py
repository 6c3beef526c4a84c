"""List, choose, compare and tidy run directories."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from layermatch.errors import UserError
from layermatch.output import steady_output, terminal
from layermatch.registry.command import list_runs

__all__ = ["main"]


@steady_output()
def main(arguments: Sequence[str] | None = None) -> None:
    """Start the command; a mistake of the user is one line on standard error and status 2.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    try:
        list_runs(arguments, terminal())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.status)


if __name__ == "__main__":
    main()
