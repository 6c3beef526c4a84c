"""What was typed, as Hydra reads it: paths are taken literally, and a refusal says how to write it instead."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from layermatch.errors import UserError
from layermatch.paths import PATHS, expand

__all__ = ["as_typed", "explain_several", "explain_unreadable", "pasteable", "quoted", "typed_arguments"]

#: Settings that are taken as they were typed: paths, and what becomes part of one or names a run on a dashboard.
TEXTS = (*PATHS, "name", "logger.project", "logger.entity", "logger.group")

#: Signs by which the user says in Hydra's own way what is meant.
OF_HYDRA = ("'", '"', "\\", "${")

#: What Hydra says of several values without ``-m``; of ``range(...)`` and its like in the second way.
SEVERAL = re.compile(
    r"((?P<is_simple>Ambiguous value for argument)|Sweep parameters) '(?P<override>.*)'( requires --m|$)", re.MULTILINE
)


def quoted(text: str) -> str:
    """Return a text as a value of Hydra that is this text and nothing else.

    Example:
        >>> quoted("2024_06_01")
        '"2024_06_01"'
    """
    return QuotedString(text, Quote.double).with_quotes()


def pasteable(override: str) -> str:
    """Return an override as a word of the shell.

    Example:
        >>> print(pasteable('data.root="pictures (1)"'))
        'data.root="pictures (1)"'
    """
    return shlex.quote(override)


def as_typed(override: str) -> str:
    """Return the same override, quoted where Hydra would make something else of a path, or refuse it.

    Hydra reads ``2024_06_01`` as a number, ``[x]`` as a list, and refuses ``pictures (1)``, ``~/x`` and ``ä``.
    What is quoted, escaped or interpolated already, ``null``, and several values of a sweep stay what they are.

    Args:
        override: A word of the command line.

    Example:
        >>> as_typed("run_dir=2024_06_01"), as_typed("data.root=pictures (1)"), as_typed("data.split=null")
        ('run_dir="2024_06_01"', 'data.root="pictures (1)"', 'data.split=null')
        >>> as_typed("seed=2024_06_01"), as_typed("data.root=2024,2025")
        ('seed=2024_06_01', 'data.root="2024","2025"')
    """
    key, equals, typed = override.partition("=")
    if not equals or not typed or key.lstrip("+") not in TEXTS:
        return override
    try:
        parsed = _parse(override)
    except (HydraException, ValueError):
        return f"{key}={quoted(typed)}"
    value = parsed.value()
    if isinstance(value, ChoiceSweep) and value.simple_form:
        typed_values = typed.split(",")
        is_plain = len(typed_values) == len(value.list) and not any(sign in typed for sign in OF_HYDRA)
        return f"{key}={','.join(_value_as_typed(key, v) for v in typed_values)}" if is_plain else override
    stays = value is None or parsed.is_sweep_override() or _is_function(typed)
    if stays or (isinstance(value, str) and (value == typed or any(sign in typed for sign in OF_HYDRA))):
        return override
    return f"{key}={quoted(typed)}"


def _value_as_typed(key: str, typed: str) -> str:
    return as_typed(f"{key}={typed}").partition("=")[2]


def _parse(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


def _is_function(typed: str) -> bool:
    return typed.split("(", maxsplit=1)[0].strip() in create_functions().functions and typed.rstrip().endswith(")")


@contextmanager
def typed_arguments() -> Iterator[None]:
    """Let Hydra, and the processes that Lightning starts with the same words, see :func:`as_typed` of each.

    Raises:
        UserError: A word begins with ``=``, or is no option of Hydra's.
    """
    before = sys.argv
    words = _together(before[1:])
    _check_words(words)
    sys.argv = [*before[:1], *(_home_expanded(as_typed(word)) for word in words)]
    try:
        yield
    finally:
        sys.argv = before


def _together(words: list[str]) -> list[str]:
    """Return the words with all settings before the options: Hydra takes no two groups of settings around an option."""
    known, unknown = get_args_parser().parse_known_args(words)
    late = [word for word in unknown if not word.startswith("-")]
    if not late:
        return words
    # By identity: the value of an option may be the same text as a setting.
    settings = [*known.overrides, *late]
    taken = {id(word) for word in settings}
    return [*settings, *(word for word in words if id(word) not in taken)]


def _check_words(words: list[str]) -> None:
    """Refuse what would be a traceback, or the usage, of Hydra's."""
    for word in words:
        if word.startswith("="):
            raise UserError(f"cannot read {word!r} on the command line: give key=value, without spaces around the =")
    unknown = get_args_parser().parse_known_args(words)[1]
    if unknown:
        name, _, value = unknown[0].lstrip("-").partition("=")
        raise UserError(f"unknown option {unknown[0]}: give settings without dashes, {name}={value or 'VALUE'}")


def _home_expanded(word: str) -> str:
    """Return an option of Hydra's that is a folder; the shell expands ``~`` only where a word begins with it."""
    option, equals, value = word.partition("=")
    is_folder = option in {"--config-dir", "-cd", "--config-path", "-cp"} and equals
    return f"{option}={expand(option, value, 'a folder')}" if is_folder else word


def explain_unreadable(error: OverrideParseException) -> str:
    """Return one line for a word of the command line that Hydra cannot read, with one that it can.

    Args:
        error: The error that Hydra raised.
    """
    override = error.override
    key, equals, value = override.partition("=")
    refusal = f"cannot read {override!r} on the command line"
    if not equals:
        return f"{refusal}: give key=value, without spaces around the ="
    if not _can_read(f"{key}=1"):
        return f"{refusal}: give key=value, the key in letters, digits, _ and dots, without spaces around the ="
    items = _quoted_items(value)
    if items and _can_read(f"{key}={items}"):
        return f"{refusal}: quote what is in the list: {pasteable(f'{key}={items}')}"
    is_open = any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")) or value[:1] in {"'", '"'}
    advice = "close what is opened, or give it as text" if is_open else "quote it"
    return f"{refusal}{_reason(error)}: {advice}: {pasteable(f'{key}={quoted(value)}')}"


def _quoted_items(value: str) -> str:
    """Return a list with each of its items quoted; empty where the value is no flat list."""
    inner = value[1:-1]
    if value[:1] + value[-1:] != "[]" or any(sign in inner for sign in "[]{}()\"'"):
        return ""
    return f"[{','.join(quoted(item.strip()) for item in inner.split(','))}]"


def _reason(error: OverrideParseException) -> str:
    """Return what a function of Hydra's says of its arguments."""
    lines = str(error).splitlines()
    found = [line for line in lines if " while evaluating " in line and "Unknown function" not in line]
    return f" ({found[0].partition(': ')[2]})" if found else ""


def _can_read(override: str) -> bool:
    try:
        _parse(override)
    except (HydraException, ValueError):
        return False
    return True


def explain_several(error: Exception) -> str | None:
    """Return one line for several values without ``-m``; None for any other error.

    Args:
        error: The error that Hydra raised.

    Example:
        >>> explain_several(HydraException("Sweep parameters 'seed=range(0,3)' requires --multirun"))
        'seed=range(0,3) gives several values: add -m to run each of them'
    """
    found = SEVERAL.match(str(error))
    if found is None:
        return None
    override = found["override"]
    key, _, value = override.partition("=")
    line = f"{override} gives several values: add -m to run each of them"
    if not found["is_simple"]:
        return line
    return f"{line}, or write a list, {pasteable(f'{key}=[{value}]')}, or text, {pasteable(f'{key}={quoted(value)}')}"
