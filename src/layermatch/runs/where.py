"""Conditions that choose runs: ``algorithm=fixmatch``, ``num_labels<=40``, ``state!=finished``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from layermatch.errors import UserError
from layermatch.runs.entries import FIGURES, Entry, names_of
from layermatch.runs.state import STATES

__all__ = ["Condition", "choose", "full_name", "read_condition"]

_CONDITION = re.compile(r"([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.*)", re.DOTALL)

_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

#: Short names of settings whose last part alone would be another, or several.
SHORT = {"algorithm": "algorithm.name", "labels": "data.num_labels", "experiment": "name"}


@dataclass(frozen=True)
class Condition:
    """One condition.

    Args:
        name: What is compared: one of :data:`layermatch.runs.entries.FIGURES`, a setting, or its last part.
        sign: How: ``=`` or ``!=`` with patterns, ``<``, ``<=``, ``>`` or ``>=`` with a number.
        value: The patterns, as of the shell and separated by commas, or the number that it is compared with.
    """

    name: str
    sign: str
    value: str

    def __str__(self) -> str:
        """Return the condition as it was written."""
        return f"{self.name}{self.sign}{self.value}"

    def holds(self, entry: Entry, *, name: str) -> bool:
        """Return whether it holds for a run. A run that has no such value is never chosen.

        Args:
            entry: The run.
            name: The full name of what is compared.
        """
        if self.sign in _NUMBERS:
            figure = entry.figure(name)
            return figure is not None and _NUMBERS[self.sign](figure, float(self.value))
        text = entry.value(name)
        if text is None:
            return False
        is_one = any(fnmatchcase(text, pattern) for pattern in self.value.split(","))
        return is_one is (self.sign == "=")


def read_condition(text: str) -> Condition:
    """Read a condition.

    Args:
        text: A condition, as it was typed.

    Raises:
        UserError: It is none.

    Example:
        >>> read_condition("data.num_labels<=40")
        Condition(name='data.num_labels', sign='<=', value='40')
        >>> read_condition("fixmatch")
        Traceback (most recent call last):
        layermatch.errors.UserError: --where fixmatch is no condition: give NAME=PATTERN, NAME!=PATTERN or NAME<=NUMBER
    """
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise UserError(f"--where {text} is no condition: give NAME=PATTERN, NAME!=PATTERN or NAME<=NUMBER")
    condition = Condition(*found.groups())
    if condition.sign in _NUMBERS:
        if not _is_number(condition.value):
            raise UserError(f"--where {text}: {condition.value!r} is no number, and {condition.sign} compares numbers")
    elif condition.name == "state":
        _check_states(text, condition.value)
    return condition


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _check_states(text: str, patterns: str) -> None:
    """Refuse what no run can be."""
    for pattern in patterns.split(","):
        if not any(fnmatchcase(state, pattern) for state in STATES):
            raise UserError(f"--where {text}: no run is {pattern!r}: a run is {', '.join(STATES)}")


def full_name(name: str, names: Sequence[str]) -> str:
    """Return the name that a short one stands for.

    Args:
        name: A name, or the last part of one.
        names: The names that there are.

    Raises:
        UserError: There is no such name, or several end with it.

    Example:
        >>> full_name("lr", ["seed", "optimizer.lr"]), full_name("algorithm", ["algorithm.name"])
        ('optimizer.lr', 'algorithm.name')
    """
    if name in names:
        return name
    if SHORT.get(name) in names:
        return SHORT[name]
    ends = [each for each in names if each.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UserError(f"{name} is short for several settings: give one of {', '.join(ends[:5])}")
    last_parts = {each.rpartition(".")[2]: each for each in names}
    nearest = get_close_matches(name.rpartition(".")[2], last_parts, n=1)
    legal = f"the nearest is {last_parts[nearest[0]]}" if nearest else f"give {', '.join(FIGURES)}, or a setting"
    raise UserError(f"no run here has {name}: {legal}")


def choose(entries: Sequence[Entry], conditions: Sequence[Condition]) -> list[Entry]:
    """Return the runs for which all conditions hold, in their order.

    Args:
        entries: The runs.
        conditions: The conditions; none chooses every run.

    Raises:
        UserError: A condition names what none of the runs has.
    """
    names = names_of(entries)
    full = [(condition, full_name(condition.name, names)) for condition in conditions]
    return [entry for entry in entries if all(condition.holds(entry, name=name) for condition, name in full)]
