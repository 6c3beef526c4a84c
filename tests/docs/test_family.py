"""The page of the family names every method and policy that can be chosen, and none that cannot."""

from __future__ import annotations

import re
from pathlib import Path

from layermatch.cli import config_dir

PAGE = Path(__file__).parents[2] / "docs" / "family.md"


def choices(section: str) -> set[str]:
    return {path.stem for path in (config_dir() / section).glob("*.yaml")} - {"base", "none"}


def named(text: str) -> set[str]:
    """What stands in the tables as code."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}


def test_every_method_and_policy_is_on_the_page() -> None:
    found = named(PAGE.read_text(encoding="utf-8"))
    assert found == choices("algorithm") | choices("pseudo_labels")
