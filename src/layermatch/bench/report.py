"""What was measured: figures, their ratios, the machine; as tables and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from layermatch import __version__
from layermatch.console import Reporter, table
from layermatch.errors import UserError

__all__ = ["FORMAT", "Figure", "Ratio", "Section", "check_json_path", "machine", "show", "write_json"]

#: The mark of a file of ours, so that nothing else is overwritten.
FORMAT = "layermatch bench 1"


@dataclass(frozen=True)
class Figure:
    """An absolute figure: the median of its measurements.

    Args:
        name: What the figure is of.
        unit: ``ms``, ``s``, ``MiB`` or ``%``.
        measured: One or more measurements in that unit.
        target: What the project aims at, in that unit; empty where nothing is promised for what was measured.

    Example:
        >>> Figure("a step", "ms", (1.0, 5.0, 2.0)).value
        2.0
    """

    name: str
    unit: str
    measured: tuple[float, ...]
    target: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.measured)

    @classmethod
    def in_ms(cls, name: str, seconds: Sequence[float]) -> Figure:
        """Return a figure in milliseconds.

        Args:
            name: What the figure is of.
            seconds: One or more measurements.
        """
        return cls(name, "ms", tuple(1000 * second for second in seconds))


@dataclass(frozen=True)
class Ratio:
    """The quotient of two figures that were measured in turn.

    Args:
        name: What the ratio says.
        numerator: A figure.
        denominator: A figure of the same unit.
        target: What the project aims at; empty where nothing is promised for what was measured.

    Example:
        >>> Ratio("times as fast", Figure("theirs", "ms", (6.0,)), Figure("ours", "ms", (2.0,))).value
        3.0
    """

    name: str
    numerator: Figure
    denominator: Figure
    target: str = ""

    @property
    def value(self) -> float:
        """Numerator by denominator."""
        return self.numerator.value / self.denominator.value


@dataclass
class Section:
    """All about one subject.

    Args:
        name: ``augment``, ``step``, ``policies``, ``data`` or ``features``.
        settings: What was measured, for people.
        ratios: The ratios of figures that are among ``figures``.
        figures: The figures, each with a name of its own.
    """

    name: str
    settings: dict[str, Any]
    ratios: list[Ratio] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def machine(*, device: torch.device) -> dict[str, Any]:
    """Return what was measured on: processor, threads, versions.

    Args:
        device: The device that computes.
    """
    capabilities = torch.cpu.get_capabilities()
    packages = ("torch", "torchvision", "lightning", "numpy", "pillow")
    return {
        "processor": str(capabilities.get("cpu_name", platform.processor() or platform.machine())),
        "cores": os.cpu_count(),
        "bf16 in hardware": bool(capabilities.get("avx512_bf16")),
        "matrix unit (AMX bf16)": bool(capabilities.get("amx_bf16")),
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "load at start": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "layermatch": __version__}
        | {package: version(package) for package in packages},
    }


def check_json_path(path: Path) -> None:
    """Refuse a path that cannot be written, or that holds something else than a bench result.

    Args:
        path: The file that the result goes to.

    Raises:
        UserError: The path cannot be written, or something else is there.
    """
    if path.is_dir():
        raise UserError(f"--json {path} is a folder: give a file name")
    if not path.parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {path.parent}: give a file in a folder that exists")
    if path.exists() and not _is_result(path):
        raise UserError(f"--json {path} exists and is no bench result: give another name")


def _is_result(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_json(path: Path, sections: Sequence[Section], *, about: dict[str, Any], quick: bool) -> None:
    """Write everything measured.

    Args:
        path: The path of the file.
        sections: The sections, in the order in which they were measured.
        about: What :func:`machine` gives.
        quick: Whether the short form was measured.
    """
    content = {"format": FORMAT, "quick": quick, "machine": about, "sections": {s.name: _plain(s) for s in sections}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plain(section: Section) -> dict[str, Any]:
    ratios = [
        {
            "name": ratio.name,
            "value": ratio.value,
            "target": ratio.target,
            "numerator": ratio.numerator.name,
            "denominator": ratio.denominator.name,
        }
        for ratio in section.ratios
    ]
    figures = [
        {
            "name": figure.name,
            "value": figure.value,
            "unit": figure.unit,
            "target": figure.target,
            "measured": list(figure.measured),
        }
        for figure in section.figures
    ]
    return {"settings": section.settings, "ratios": ratios, "figures": figures}


def show(sections: Sequence[Section], *, about: dict[str, Any], reporter: Reporter) -> None:
    """Print the ratios of all sections, then the absolute figures, then the machine.

    Args:
        sections: The sections, in the order in which they were measured.
        about: What :func:`machine` gives.
        reporter: The reporter to show them on.
    """
    ratios: list[tuple[str, ...]] = [
        (s.name, ratio.name, f"{ratio.value:.2f}", ratio.target or "-") for s in sections for ratio in s.ratios
    ]
    reporter.show(table("Ratios", ratios, header=("", "ratio", "value", "target")))
    for section in sections:
        rows = [(figure.name, *_numbers(figure), figure.unit, figure.target or "-") for figure in section.figures]
        settings = ", ".join(f"{name} {value}" for name, value in section.settings.items())
        header = ("", "median", "lowest", "highest", "unit", "target")
        reporter.show(table(f"{section.name}: {settings}", rows, header=header))
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    rest = {name: str(value) for name, value in about.items() if name != "versions"}
    reporter.show(table("Machine", rest | {"versions": versions}))


def _numbers(figure: Figure) -> tuple[str, ...]:
    return tuple(f"{number:,.2f}" for number in (figure.value, min(figure.measured), max(figure.measured)))
