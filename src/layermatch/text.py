"""Text of files that strangers wrote."""

from __future__ import annotations

import re

__all__ = ["printable"]

#: Control characters: they mean something to a terminal, and nothing to a reader. Half a surrogate pair is what is
#: left of a file name that is not UTF-8; it cannot be written.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return a text without control characters, so that a class name cannot move the cursor or turn the line round.

    Args:
        text: Anything; its ``str`` is taken.

    Example:
        >>> printable("cat" + chr(27) + "[2J")
        'cat�[2J'
    """
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text))
