"""Numbers, as people read them."""

from __future__ import annotations

import math

__all__ = ["duration", "number", "percent", "points"]

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float, *, sign: bool = False) -> str:
    r"""Return a share as a percentage with one digit after the point; the space before the sign does not break.

    Args:
        share: 1 is 100 %.
        sign: Whether a plus is written.

    Example:
        >>> percent(0.9389)
        '93.9\xa0%'
    """
    text = f"{100 * share:+.1f}" if sign else f"{100 * share:.1f}"
    return f"{_minus(text)}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign.

    Args:
        share: The difference; 1 is 100 points.

    Example:
        >>> points(0.0314)
        '+3.1'
    """
    return _minus(f"{100 * share:+.1f}")


def number(value: float, *, digits: int = 3) -> str:
    """Return a number with so many significant digits, thousands and above with a letter.

    Args:
        value: Any number.
        digits: The number of significant digits, at least 1.

    Example:
        >>> number(0.012345), number(1_048_576), number(3.0)
        ('0.0123', '1.05M', '3')
    """
    if not math.isfinite(value):
        return str(value)
    for unit, letter in _UNITS:
        if abs(value) >= unit:
            return _minus(f"{value / unit:.{digits}g}") + letter
    if value and abs(value) < 1e-4:
        return _minus(f"{value:.{digits - 1}e}")
    return _minus(f"{value:.{digits}g}")


def duration(seconds: float) -> str:
    """Return a time in at most two units.

    Args:
        seconds: The time in seconds, at least 0.

    Example:
        >>> duration(42.4), duration(3_725), duration(200_000)
        ('42 s', '1 h 2 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
