"""Settings by the names of the command line, and how a run directory keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from layermatch.runs.layout import CONFIG
from layermatch.text import printable

__all__ = ["flatten", "leaves", "read_settings", "stored_settings"]


def flatten(settings: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with the keys of the command line.

    A W&B sweep writes its choice under the same key, so that the two are one column.

    Args:
        settings: Section -> key -> value.
        prefix: A text that is put before each key.

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


def leaves(settings: Mapping[Any, Any]) -> dict[str, str]:
    """List dotted names and values, both as text for people. An empty section is none.

    Args:
        settings: The settings, nested or flat already.

    Example:
        >>> leaves({"data": {"mu": 7, "split": None}, "layerwise": {}})
        {'data.mu': '7', 'data.split': 'null'}
    """
    flat = flatten(settings)
    return {printable(name): _text(value) for name, value in flat.items() if not isinstance(value, Mapping)}


def _text(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, default=str))


#: libyaml's loader, ten times as fast, where PyYAML was built with it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: More sections within each other than this are none of a run's.
_DEEPEST = 100


def _check_events(text: str) -> None:
    """Refuse what no run writes, before anything is made of it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):  # a few lines of them can stand for more than memory holds
            raise yaml.YAMLError("it holds an alias")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:  # libyaml's loader would end the process
            raise yaml.YAMLError("it is nested too deeply")


def read_settings(path: Path) -> dict[Any, Any]:
    """Return the configuration of a run.

    Args:
        path: The path of ``config.yaml``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no settings.
        yaml.YAMLError: The file is no YAML, has aliases, or is nested too deeply.
    """
    text = path.read_text(encoding="utf-8")
    _check_events(text)
    settings = yaml.load(text, Loader=_Loader)  # noqa: S506 -- a SafeLoader
    if not isinstance(settings, dict) or not settings:
        raise ValueError("it holds no settings")
    return settings


def stored_settings(run_dir: Path) -> dict[Any, Any] | None:
    """Return the configuration in a run directory; None where there is none that can be read.

    Args:
        run_dir: The directory of the run.
    """
    try:
        return read_settings(run_dir / CONFIG)
    except (OSError, ValueError, yaml.YAMLError):
        return None
