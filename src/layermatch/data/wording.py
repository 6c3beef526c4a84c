"""Names and other libraries' errors in one-line messages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

__all__ = ["composed", "gone_text", "look_alikes_text", "name_text", "one_line", "printable"]

#: How Python keeps a byte of a file's name that is not UTF-8.
_BYTE = re.compile("[\udc80-\udcff]")


def composed(name: str) -> str:
    r"""Return a name with each accented letter as one character (NFC), as most systems and keyboards write it.

    Args:
        name: The name of a class, as its folder is called or a table writes it.

    Example:
        >>> composed("cafe\N{COMBINING ACUTE ACCENT}") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        True
    """
    return unicodedata.normalize("NFC", name)


def one_line(error: Exception) -> str:
    """Return what an exception of another library says, on one line.

    Args:
        error: Any exception.

    Returns:
        Its text without line breaks, or its name where it has no text.

    Example:
        >>> one_line(OSError("no   space")), one_line(EOFError())
        ('no space', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def printable(name: str) -> str:
    r"""Return a file's name as it can be written on one line of any text.

    Args:
        name: The name as the file system gives it: with line breaks, or bytes that are no text.

    Example:
        >>> printable("a cat.png"), printable("a\ncat\udcff.png")
        ('a cat.png', "'a\\ncat\\udcff.png'")
    """
    return name if name.isprintable() else ascii(name)


def name_text(name: str) -> str:
    r"""Return the name of a class or a file as text, which every file and every dashboard takes.

    Args:
        name: The name, perhaps of a folder, as the file system gives it; bytes that are not UTF-8 become escapes.

    Example:
        >>> name_text("caf\udce9"), name_text("café")
        ('caf\\xe9', 'café')
    """
    text = _BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", name)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def gone_text(what: str, reason: str) -> str:
    """Return what a run says that lost a file while it was training.

    Args:
        what: The file, and what it is.
        reason: Why it cannot be read.

    Example:
        >>> gone_text("the image cat.png", "it is empty")
        'the image cat.png cannot be read any more: it is empty: put it back and go on with ckpt_path=last'
    """
    return f"{what} cannot be read any more: {reason}: put it back and go on with ckpt_path=last"


def look_alikes_text(first: Iterable[str], second: Iterable[str]) -> list[str]:
    r"""Return the names that a person may take for one another.

    Args:
        first: Names that one part alone has.
        second: Names that another part alone has.

    Returns:
        A text for each pair.

    Example:
        >>> look_alikes_text(["Ant", "bee"], ["ant ", "cat"])
        ["'Ant' and 'ant ' differ only in upper and lower case, spaces or characters that look alike"]
    """
    by_look = {_look(name): name for name in second}
    return [
        f"{name!a} and {by_look[_look(name)]!a} differ only in upper and lower case, spaces or characters that "
        "look alike"
        for name in sorted(first)
        if _look(name) in by_look
    ]


def _look(name: str) -> str:
    shown = (one for one in unicodedata.normalize("NFKC", name).casefold() if unicodedata.category(one) != "Cf")
    return "".join("".join(shown).split())
