"""The way from a section of the configuration to the object that it describes.

A section's keys are the constructor's arguments: an unknown key, and with it every setting that nothing reads, is an
error. Only this package's components, those of ``torch.optim`` and packages that the user names in ``plugins`` are
called, so the configuration inside a stranger's checkpoint cannot run anything else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

from layermatch.errors import RunError, UserError

__all__ = ["check_keys", "check_present", "find_target", "make", "option_names", "section_of_errors"]

#: What `_target_` may name, beside the user's `plugins`: where components are. Not all of this package: its commands,
#: and `make` itself, call what they are given, and through them a configuration could name anything.
TRUSTED = (
    "layermatch.augment", "layermatch.data", "layermatch.functional", "layermatch.layerwise", "layermatch.loggers",
    "layermatch.methods", "layermatch.networks", "layermatch.parts", "layermatch.policies",
    "torch.optim",
)  # fmt: skip


def find_target(key: str, path: object, *, plugins: Iterable[str] = ()) -> Callable[..., Any]:
    """Return the class or function that a dotted path names.

    Args:
        key: The setting that holds the path, for the error.
        path: The dotted path, for example ``layermatch.policies.FixedThreshold``.
        plugins: The packages that are trusted beside this one's components and ``torch.optim``.

    Raises:
        UserError: The path names nothing, or something of another package.

    Example:
        >>> find_target("schedule._target_", "layermatch.functional.constant")(3, 10)
        1.0
        >>> find_target("schedule._target_", "os.system")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: schedule._target_=os.system is not of layermatch.augment, ...
    """
    if path is None:
        raise UserError(f"{key} is not given: choose another file of conf/{key.partition('.')[0]}")
    trusted = (*TRUSTED, *plugins)
    module_name, _, name = str(path).rpartition(".")
    refusal = f"{key}={path} is not of {', '.join(trusted)}: name your own package in plugins=[...] if you trust it"
    if not _is_within(module_name, trusted):
        raise UserError(refusal)
    try:
        target = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}={path} does not exist: {error}") from error
    # `layermatch.x.os` is reached through this package, but is not of it.
    origin = target.func if isinstance(target, partial) else target
    if not callable(target) or not _is_within(getattr(origin, "__module__", "") or "", trusted):
        raise UserError(refusal)
    return target  # type: ignore[no-any-return]


def _is_within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def option_names(target: Callable[..., Any]) -> set[str]:
    """Return the names of the arguments that a class or function takes, those it passes on to its base class included.

    Args:
        target: A class, a function or a ``functools.partial``.

    Example:
        >>> from layermatch.policies import FixedThreshold
        >>> option_names(FixedThreshold)
        {'threshold'}
    """
    names: set[str] = set()
    constructors = [vars(base).get("__init__") for base in target.__mro__] if inspect.isclass(target) else [target]
    for constructor in filter(None, constructors):
        parameters = inspect.signature(constructor).parameters.values()
        names |= {p.name for p in parameters if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}} - {"self"}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names


def check_keys(section: str, given: Iterable[str], legal: Iterable[str]) -> None:
    """Refuse keys that nothing reads.

    Args:
        section: The name of the section, for the error; empty for the top level.
        given: The keys in the configuration.
        legal: The keys that are read.

    Raises:
        UserError: A key is not legal.
    """
    legal = sorted(legal)
    for key in given:
        if key not in legal:
            full = f"{section}.{key}" if section else key
            raise UserError(f"unknown setting {full}: choose one of {', '.join(legal) or '(none)'}")


def check_present(section: str, given: Iterable[str], needed: Iterable[str]) -> None:
    """Refuse a section that lacks a key.

    Args:
        section: The name of the section, for the error.
        given: The keys in the configuration.
        needed: The keys that must be there.

    Raises:
        UserError: A key is missing.

    Example:
        >>> check_present("trainer", ["devices"], ["devices", "num_nodes"])
        Traceback (most recent call last):
        layermatch.errors.UserError: trainer.num_nodes is missing: give trainer.num_nodes=VALUE
    """
    missing = sorted(set(needed) - set(given))
    if missing:
        raise UserError(f"{section}.{missing[0]} is missing: give {section}.{missing[0]}=VALUE")


@contextmanager
def section_of_errors(section: str, keys: Iterable[str]) -> Iterator[None]:
    """Name settings in an error as the user writes them: a constructor knows its own arguments alone.

    Args:
        section: The section that the arguments come from.
        keys: The keys of that section; a mapping of them tells which are mappings themselves.

    Raises:
        UserError, RunError: The one that was raised within, with ``SECTION.KEY`` for ``KEY``.

    Example:
        >>> with section_of_errors("schedule", ["cycles"]):
        ...     raise UserError("cycles=2 is not legal")
        Traceback (most recent call last):
        layermatch.errors.UserError: schedule.cycles=2 is not legal
    """
    try:
        yield
    except (UserError, RunError) as error:
        error.args = (_named_in(section, keys, str(error)),)
        raise


def _named_in(section: str, keys: Iterable[str], message: str) -> str:
    """Put the section before each key of a message: `key=value`, `key: ...`, and `key.part` where a key has parts."""
    values = keys if isinstance(keys, Mapping) else dict.fromkeys(keys)
    follows = [r"=|: |\.\w" if isinstance(value, Mapping) else "=|: " for value in values.values()]
    names = "|".join(f"{re.escape(key)}(?={after})" for key, after in zip(values, follows, strict=True))
    return re.sub(rf"(?<![\w.'/-])({names})", rf"{section}.\1", message) if names else message


def make(section: str, settings: Mapping[str, Any], *, plugins: Iterable[str] = (), **given: Any) -> Any:
    """Call what a section's ``_target_`` names with the section's other keys.

    Args:
        section: The name of the section in the configuration, for errors.
        settings: The section, as plain containers.
        plugins: Trusted packages; see :func:`find_target`.
        **given: Arguments that are not settings; the target need not take them all by a setting's name.

    Raises:
        UserError: The target is not trusted or not there, see :func:`find_target`; or a key is not an argument of the
            target.

    Example:
        >>> settings = {"_target_": "layermatch.policies.FixedThreshold", "threshold": 0.9}
        >>> make("pseudo_labels", settings).threshold
        0.9
    """
    options = dict(settings)
    target = find_target(f"{section}._target_", options.pop("_target_", None), plugins=plugins)
    check_keys(section, options, option_names(target) - set(given))
    with section_of_errors(section, options):
        return target(**options, **given)
