"""What is looked at in a process of its own before the first run: which settings are legal, and what the data are.

It reads ``{"settings": {name: configuration}}`` from standard input and writes ``{"refused": {name: reason}, "data":
{key: digest}}`` to a file, as this is where torch is imported and the data set is read: the study itself does neither.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layermatch.build import build_parts, build_source
from layermatch.data.identity import digest_of
from layermatch.data.loader import loader_errors
from layermatch.errors import UserError
from layermatch.quiet import quiet_libraries
from layermatch.settings import Settings
from layermatch.study.design import fingerprint_of
from layermatch.study.preparing import source_of

__all__ = ["main"]


def _refusal(raw: Mapping[str, Any]) -> str:
    """Return why no run can have these settings; empty where one can."""
    try:
        build_parts(Settings.parse(dict(raw)))
    except UserError as error:
        return str(error)
    return ""


def _digest(raw: Mapping[str, Any]) -> str:
    return digest_of(build_source(Settings.parse(dict(raw))).load())


def main() -> None:
    """Start the command: the file to write is its one argument."""
    asked = json.load(sys.stdin)
    refused: dict[str, str] = {}
    data: dict[str, str] = {}
    with quiet_libraries(), loader_errors():
        for name, raw in asked["settings"].items():
            reason = _refusal(raw)
            if reason:
                refused[name] = reason
        for raw in asked["data"]:
            key = fingerprint_of(source_of(raw))
            try:
                data[key] = _digest(raw)
            except UserError as error:
                refused.setdefault("", str(error))
    Path(sys.argv[1]).write_text(json.dumps({"refused": refused, "data": data}), encoding="utf-8")


if __name__ == "__main__":
    main()
