"""Composed configurations of small runs on digits. Composing takes most of a short test, so each is made once."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir

from layermatch.cli import config_dir, plain

SMALL = (
    "run_dir=unused", "experiment=digits", "data.batch_size=8", "data.mu=2", "data.num_val=0", "model.width=1",
    "trainer=cpu", "trainer.precision=32-true",
)  # fmt: skip


def names(section: str) -> list[str]:
    """The choices of a section of the configuration."""
    return sorted(path.stem for path in (config_dir() / section).glob("*.yaml") if path.stem not in {"base", "none"})


@cache
def _composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return plain(compose("run", overrides=[*SMALL, *overrides]))


def composed(*overrides: str) -> dict[str, Any]:
    """The settings of a command line; the caller may change what it is given."""
    return copy.deepcopy(_composed(*overrides))
