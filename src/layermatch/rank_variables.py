"""The variables by which a launcher tells a process its place. Light: it is imported before Lightning is."""

from __future__ import annotations

import os

__all__ = ["drop_unreadable_ranks", "number_of"]

#: What Lightning and torchmetrics read as they are imported, and end on where it is no number.
READ_AT_IMPORT = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def number_of(variable: str) -> int | None:
    """Return the value of an environment variable that counts something; None where it is not there or no such number.

    Args:
        variable: Its name.

    Example:
        >>> number_of("NO_SUCH_VARIABLE") is None
        True
    """
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def drop_unreadable_ranks() -> None:
    """Forget ranks that are no numbers, such as those of ``docker run -e RANK``: no launcher has set them."""
    for variable in READ_AT_IMPORT:
        if variable in os.environ and number_of(variable) is None:
            del os.environ[variable]
