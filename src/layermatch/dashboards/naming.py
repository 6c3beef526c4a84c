"""What a run is called on a dashboard, so that the seeds of one setting stand together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from layermatch.report.text import printable

__all__ = ["changes_of", "curve_name", "flatten", "run_group", "run_name", "run_tags"]

#: Settings that say which draw of a setting this is, or where, how fast and how often, but not what is trained; and the
#: two that are named by themselves. What is below `algorithm.` is a setting.
NOT_OF_A_GROUP = {
    "seed", "data.split", "data.fold",
    "run_dir", "ckpt_path", "plugins", "compile", "eval_every", "checkpoint.every_n_steps", "checkpoint.keep",
    "data.root", "data.verify", "data.download", "data.storage", "data.cache_dir", "data.num_workers",
    "data.eval_batch_size", "trainer.accelerator", "trainer.log_every", "trainer.deterministic",
    "logger", "hydra", "experiment", "algorithm",
}  # fmt: skip

#: Sections that are of no group either, with all below them.
SECTIONS_NOT_OF_A_GROUP = ("logger.", "hydra.", "hydra/")

#: The longest name, and the longest tag, that W&B takes.
MAX_NAME, MAX_TAG = 128, 64


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with the keys of the command line.

    A W&B sweep writes its choice under the same key, so that the two are one column.

    Args:
        settings: section -> key -> value.
        prefix: put before each key.

    Example:
        >>> flatten({"seed": 0, "optimizer": {"lr": 0.03}, "layerwise": {}})
        {'seed': 0, 'optimizer.lr': 0.03, 'layerwise': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changes_of(overrides: Iterable[str]) -> tuple[str, ...]:
    """The changes of a command line that make it another setting, in an order of their own.

    Args:
        overrides: ``key=value`` as given to Hydra.

    Example:
        >>> changes_of(["seed=1", "optimizer.lr=0.1", "experiment=digits", "+data.mu=3", "logger.tags=[a]"])
        ('data.mu=3', 'optimizer.lr=0.1')
    """
    changes = []
    for override in (text.lstrip("+~") for text in overrides):
        key = override.partition("=")[0]
        if key not in NOT_OF_A_GROUP and not key.startswith(SECTIONS_NOT_OF_A_GROUP):
            changes.append(override)
    return tuple(sorted(changes))


def curve_name(name: str) -> str:
    r"""The name of a metric for W&B, whatever a class in it is called.

    W&B takes ``*`` for many curves, or refuses it, and with it every other curve of the row.

    Args:
        name: as in ``metrics.csv``.

    Example:
        >>> ascii(curve_name("counts/a*b"))
        "'counts/a\\u2217b'"
    """
    return printable(name).replace("*", "\N{ASTERISK OPERATOR}")


def run_group(experiment: str, algorithm: str, changes: Iterable[str]) -> str:
    """The group of a run: the same for all seeds of a setting, and another for every other setting.

    Args:
        experiment: ``name`` of the configuration.
        algorithm: ``algorithm.name``.
        changes: see :func:`changes_of`.

    Example:
        >>> run_group("digits", "fixmatch", ["optimizer.lr=0.1"])
        'digits fixmatch optimizer.lr=0.1'
    """
    return _shortened(" ".join([experiment, algorithm, *changes]))


def run_name(algorithm: str, changes: Iterable[str], *, seed: int) -> str:
    """A short name that tells a run from the others of its experiment.

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
    """Tags, each once and no longer than W&B takes."""
    return list(dict.fromkeys(tag[:MAX_TAG] for tag in tags if tag))


def _shortened(text: str, *, ending: str = "") -> str:
    """Within the longest name; what was cut off is told apart by a few digits of its hash."""
    if len(text) + len(ending) > MAX_NAME:
        digits = hashlib.sha256(text.encode()).hexdigest()[:6]
        text = f"{text[: MAX_NAME - len(ending) - 8]}..{digits}"
    return text + ending
