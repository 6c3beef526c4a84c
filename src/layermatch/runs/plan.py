"""``plan.json``: what a run said that it would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from layermatch.files import replace_text
from layermatch.runs.layout import PLAN
from layermatch.text import printable

__all__ = ["read_plan", "write_plan"]


def write_plan(run_dir: Path, rows: Mapping[str, str]) -> None:
    """Write the plan of a run, in place of that of the run that it goes on from.

    Args:
        run_dir: The directory of the run.
        rows: The text of each row by its name, in the order in which they are shown.

    Raises:
        OSError: The file cannot be written. The old one is still there.
    """
    replace_text(run_dir / PLAN, json.dumps(dict(rows), indent=2) + "\n")


def read_plan(path: Path) -> dict[str, str]:
    """Return the plan of a run.

    Args:
        path: The path of ``plan.json``.

    Returns:
        The text of each row by its name, without control characters.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no plan.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, dict) or not all(isinstance(text, str) for text in rows.values()):
        raise ValueError("it holds no plan")
    return {printable(name): printable(text) for name, text in rows.items()}
