"""What is looked at in a process of its own before the first run: which settings are legal, and what the data are.

It reads ``{"settings": {name: configuration}, "data": [configuration], "folds": [{"raw": configuration, "paths":
[file]}]}`` from standard input, writes the files of the folds, and ``{"refused": {name: reason}, "data": {key:
digest}, "machine": text, "gpus": [name]}`` to a file, as this is where torch is imported and the data set is read: the
study itself does neither.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layermatch.build import build_parts, build_source, check_steps
from layermatch.data.identity import digest_of
from layermatch.data.loader import loader_errors
from layermatch.device_places import visible_gpus
from layermatch.errors import UserError
from layermatch.quiet import quiet_libraries
from layermatch.settings import Settings
from layermatch.study.design import fingerprint_of
from layermatch.study.folds import make_folds
from layermatch.study.preparing import source_of

__all__ = ["main"]


def _refusal(raw: Mapping[str, Any]) -> str:
    """Return why no run can have these settings; empty where one can."""
    try:
        settings = Settings.parse(dict(raw))
        check_steps(settings, build_parts(settings).algorithm.method)
    except UserError as error:
        return str(error)
    return ""


def _digest(raw: Mapping[str, Any]) -> str:
    return digest_of(build_source(Settings.parse(dict(raw))).load())


def _machine() -> str:
    """Return what runs are started on, in words."""
    capabilities = torch.cpu.get_capabilities()
    processor = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    parts = [str(processor), f"{os.cpu_count()} cores", torch.backends.cpu.get_cpu_capability()]
    if capabilities.get("avx512_bf16"):
        parts.append("bf16 in hardware")
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def main() -> None:
    """Start the command: the file to write is its one argument."""
    asked = json.load(sys.stdin)
    refused: dict[str, str] = {}
    data: dict[str, str] = {}
    with quiet_libraries(), loader_errors():
        try:
            for each in asked["folds"]:
                make_folds(each["raw"], each["paths"])
        except UserError as error:
            refused[""] = str(error)
            asked["settings"] = {}
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
    found = {"refused": refused, "data": data, "machine": _machine(), "gpus": visible_gpus(os.environ)}
    Path(sys.argv[1]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
