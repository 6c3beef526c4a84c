"""What ends a run with one line instead of a traceback: a mistake of the user, or something that happened to the run.

The command line prints the line. A mistake (:class:`UserError`, which library callers catch as :class:`ValueError`)
exits with 2, what happened to a run (:class:`RunError`) with 1, and a run that was asked to stop
(:class:`StoppedError`) with 75.
"""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

__all__ = ["RunError", "StoppedError", "UserError", "check_bool", "check_choice", "check_number"]


class UserError(ValueError):
    """A wrong value, path or combination. The message is one line: what was given, and what is legal.

    Attributes:
        status: The exit status of the process.
        is_said: Whether the command line says it; False where another process of the run says the same.
    """

    status = 2
    is_said = True


class RunError(Exception):
    """Something happened to the run that its settings did not cause: one line, exit status 1.

    Attributes:
        status: The exit status of the process.
        is_said: Whether the command line says it; None leaves that to the first process of the run.
    """

    status = 1
    is_said: bool | None = None


class StoppedError(RunError):
    """The run was asked to stop and wrote a checkpoint: one line, exit status 75 (``EX_TEMPFAIL``: try again).

    Attributes:
        requeue_by: A signal that who started this process queues the job again at, and has not seen; None without.
    """

    status = 75
    requeue_by: int | None = None


def check_choice(name: str, value: object, legal: Collection[str]) -> None:
    """Refuse a value that is not one of ``legal``.

    Args:
        name: The setting as the user writes it, for example ``layerwise.grad_relu``.
        value: What was given.
        legal: The legal values.

    Raises:
        UserError: ``value`` is not in ``legal``.

    Example:
        >>> check_choice("forward", "split", ("split", "joint"))
    """
    if not isinstance(value, str) or value not in legal:
        raise UserError(f"{name}={value!r} is not legal: choose one of {', '.join(legal)}")


def check_bool(name: str, value: object) -> None:
    """Refuse a value that is not ``True`` or ``False``.

    Args:
        name: The setting as the user writes it.
        value: What was given.

    Raises:
        UserError: ``value`` is not a bool.

    Example:
        >>> check_bool("data.verify", True)
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}={value!r} is not legal: choose true or false")


def check_number(
    name: str,
    value: object,
    *,
    low: float = float("-inf"),
    high: float = float("inf"),
    integer: bool = False,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Refuse a value that is not a finite number between ``low`` and ``high``.

    Args:
        name: The setting as the user writes it, for example ``pseudo_labels.threshold``.
        value: What was given.
        low: Smallest legal value.
        high: Largest legal value.
        integer: Whether only whole numbers are legal.
        low_open: Whether ``low`` itself is illegal.
        high_open: Whether ``high`` itself is illegal.

    Raises:
        UserError: ``value`` is not such a number.

    Example:
        >>> check_number("pseudo_labels.threshold", 0.95, low=0, high=1, low_open=True)
        >>> check_number("data.mu", 0, low=1, integer=True)
        Traceback (most recent call last):
        layermatch.errors.UserError: data.mu=0 is not legal: give a whole number, at least 1
    """
    kind = int if integer else Real
    good = isinstance(value, kind) and not isinstance(value, bool)
    if good:
        number: Any = value  # not float(value): a huge whole number does not fit
        above = number > low if low_open else number >= low
        below = number < high if high_open else number <= high
        good = above and below and abs(number) != float("inf")
    if not good:
        bounds = []
        if low != float("-inf"):
            bounds.append(f"{'above' if low_open else 'at least'} {_plain(low, integer)}")
        if high != float("inf"):
            bounds.append(f"{'below' if high_open else 'at most'} {_plain(high, integer)}")
        legal = ", ".join(["a whole number" if integer else "a number", " and ".join(bounds)]).rstrip(", ")
        raise UserError(f"{name}={value!r} is not legal: give {legal}")


def _plain(bound: float, integer: bool) -> str:
    return str(int(bound)) if integer else f"{bound:g}"
