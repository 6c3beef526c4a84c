"""What a run is called on a dashboard, so that the seeds of one setting stand together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from layermatch.runs.identity import SAME_VALUES, Kind, fingerprint, kind_of
from layermatch.runs.settings import flatten
from layermatch.text import printable

__all__ = ["changes_of", "curve_name", "run_group", "run_name", "run_tags"]

#: Choices of the command line that have a place of their own in a name; what is below ``algorithm.`` is a setting.
NAMED_BY_THEMSELVES = {"experiment", "algorithm"}

#: Kinds of settings that make no other setting.
NO_SETTING = {Kind.OWN, Kind.APART, Kind.DRAW, Kind.SEED}

#: The longest name, and the longest tag, that W&B takes.
MAX_NAME, MAX_TAG = 128, 64


def changes_of(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return the changes of a command line that make it another setting, in an order of their own.

    Args:
        overrides: The changes, ``key=value`` as given to Hydra.

    Example:
        >>> changes_of(["seed=1", "optimizer.lr=0.1", "experiment=digits", "+data.mu=3", "logger.tags=[a]"])
        ('data.mu=3', 'optimizer.lr=0.1')
    """
    changes = []
    for override in (text.lstrip("+~") for text in overrides):
        key = override.partition("=")[0]
        is_hydras = key.partition("/")[0].partition(".")[0] == "hydra"
        is_setting = kind_of(key) not in NO_SETTING and not _is_same(override)
        if key not in NAMED_BY_THEMSELVES and not is_hydras and is_setting:
            changes.append(override)
    return tuple(sorted(changes))


def _is_same(override: str) -> bool:
    """Return whether with this value the same is trained as with another one."""
    key, _, value = override.partition("=")
    return value in SAME_VALUES.get(key, ())


def curve_name(name: str) -> str:
    r"""Return the name of a metric for W&B, whatever a class in it is called.

    W&B takes ``*`` for many curves, or refuses it, and with it every other curve of the row.

    Args:
        name: The name of the metric, as in ``metrics.csv``.

    Example:
        >>> ascii(curve_name("counts/a*b"))
        "'counts/a\\u2217b'"
    """
    return printable(name).replace("*", "\N{ASTERISK OPERATOR}")


def run_group(settings: Mapping[str, Any]) -> str:
    """Return the group of a run: the same for all seeds of a setting, and another for every other setting.

    It is no list of what was changed on the command line: there, the same setting can be written in many ways.

    Args:
        settings: The composed configuration.

    Example:
        >>> settings = {"seed": 1, "algorithm": {"name": "fixmatch"}, "data": {"source": {"_target_": "my.Cats"}}}
        >>> run_group(settings).rpartition(" ")[0], run_group(settings) == run_group(settings | {"seed": 2})
        ('fixmatch Cats', True)
    """
    source = str(flatten(settings).get("data.source._target_")).rpartition(".")[2]
    words, digits = f"{settings['algorithm']['name']} {source}", f" {fingerprint(settings)}"
    return words[: MAX_NAME - len(digits)] + digits


def run_name(algorithm: str, changes: Iterable[str], *, seed: int) -> str:
    """Return a short name that tells a run from the others of its experiment.

    Sections are left out: ``optimizer.lr=0.1`` is ``lr=0.1``.

    Example:
        >>> run_name("fixmatch", ["optimizer.lr=0.1"], seed=2)
        'fixmatch lr=0.1 seed=2'
    """
    short = []
    for change in changes:
        key, equals, value = change.partition("=")
        short.append(f"{key.rpartition('.')[2]}{equals}{value}")
    return _shortened(" ".join([algorithm, *short]), ending=f" seed={seed}")


def run_tags(*tags: str) -> list[str]:
    """Return the tags, each once and no longer than W&B takes."""
    return list(dict.fromkeys(tag[:MAX_TAG] for tag in tags if tag))


def _shortened(text: str, *, ending: str = "") -> str:
    """Return a text cut to the longest name; what was cut off is told apart by a few digits of its hash."""
    if len(text) + len(ending) > MAX_NAME:
        digits = hashlib.sha256(text.encode()).hexdigest()[:6]
        text = f"{text[: MAX_NAME - len(ending) - 8]}..{digits}"
    return text + ending
