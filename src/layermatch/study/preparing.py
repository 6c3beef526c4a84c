"""Before the first run: settings that no run can have, and what the data are."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from layermatch.errors import RunError, UserError
from layermatch.files import replace_text
from layermatch.runs.identity import shared_by_seeds
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import Cell, Study, drawn_by, fingerprint_of
from layermatch.text import printable

__all__ = ["Prepared", "known_refusals", "last_line", "prepare", "source_of"]

#: What was found legal or not, so that it is not looked at again.
CHECKED = ".checked.json"

#: What of the section ``data`` says which images there are, beside ``source``, which also has the folder.
OF_SOURCE = ("source",)


def source_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that say which data set it is.

    Args:
        raw: The configuration of a run.
    """
    return {key: raw["data"].get(key) for key in OF_SOURCE}


class Prepared:
    """What is known before a run starts.

    Args:
        refused: Setting -> the reason why no run can have it.
        data: The digest of each data set, by the fingerprint of its settings.
        machine: What the runs are started on, in words; empty where it is not known.
        gpus: The GPUs that the runs may have, as :func:`~layermatch.device_places.visible_gpus` names them.
    """

    def __init__(
        self, refused: Mapping[str, str], data: Mapping[str, str], machine: str = "", *, gpus: Sequence[str] = ()
    ) -> None:
        self.refused, self.data, self.machine, self.gpus = dict(refused), dict(data), machine, list(gpus)

    def data_of(self, cell: Cell) -> str:
        """Return the digest of a run's data; empty where it is not known."""
        return self.data.get(fingerprint_of(source_of(cell.raw)), "")


def _key(cell: Cell, code: CodeVersion) -> str:
    """Return what a verdict on a setting depends on."""
    return fingerprint_of([shared_by_seeds(cell.raw), code.sources])


def known_refusals(study_dir: Path) -> dict[str, str]:
    """Return the verdicts that a study keeps: the reason by a key, empty for a setting that is legal.

    Args:
        study_dir: The directory of the study.
    """
    with suppress(OSError, ValueError):
        found = json.loads((study_dir / CHECKED).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(key): printable(reason) for key, reason in found.items()}
    return {}


def refusals(study: Study, cells: Sequence[Cell], *, code: CodeVersion, known: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of which it is known that no run can have them, with the reason.

    Args:
        study: The study.
        cells: All its runs.
        code: The code as it is now.
        known: The verdicts, from :func:`known_refusals`.
    """
    found: dict[str, str] = {}
    for cell in cells:
        if cell.seed == study.seeds[0] and known.get(_key(cell, code)):
            found.setdefault(cell.setting.name, known[_key(cell, code)])
    return found


def prepare(study: Study, cells: Sequence[Cell], *, code: CodeVersion, study_dir: Path) -> Prepared:
    """Look at the settings and the data, in a process of its own.

    Args:
        study: The study.
        cells: All its runs.
        code: The code as it is now.
        study_dir: The directory of the study, which keeps what was found.

    Raises:
        RunError: The process failed.
    """
    known = known_refusals(study_dir)
    firsts = [cell for cell in cells if cell.seed == study.seeds[0] and cell.fold in {None, 1}]
    new = {_key(cell, code): cell.raw for cell in firsts if _key(cell, code) not in known}
    sources = {fingerprint_of(source_of(cell.raw)): cell.raw for cell in cells}
    asked = json.dumps({"settings": new, "data": list(sources.values()), "folds": _folds(cells)})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prepared.json"
        command = [sys.executable, "-m", "layermatch.study.prepare", str(out)]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode or not out.is_file():
            raise RunError(f"the settings and data cannot be looked at: {last_line(done.stderr)}")
        found = json.loads(out.read_text(encoding="utf-8"))
    refused = {key: printable(reason) for key, reason in found["refused"].items()}
    of_data = refused.pop("", "")
    if of_data and not refused:
        raise UserError(of_data)
    verdicts = known | {key: refused.get(key, "") for key in new}
    wanted = {_key(cell, code): verdicts[_key(cell, code)] for cell in firsts}
    # Where all are refused, something is missing that may come; and what is refused for good is asked again.
    is_kept = study.illegal == "leave_out" and not all(wanted.values())
    kept = {key: reason for key, reason in wanted.items() if is_kept or not reason}
    with suppress(OSError):
        replace_text(study_dir / CHECKED, json.dumps(kept))
    left_out = refusals(study, cells, code=code, known=verdicts)
    return Prepared(left_out, found["data"], printable(found["machine"]), gpus=found["gpus"])


def _folds(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return what is to be dealt to folds, once for all settings that have the same labelled images."""
    dealt: dict[tuple[str, int, str], dict[str, Any]] = {}
    for cell in cells:
        if cell.fold is not None:
            raw = {**cell.raw, "data": cell.undivided}
            each = dealt.setdefault((cell.labels, cell.seed, drawn_by(cell.undivided)), {"raw": raw, "paths": {}})
            each["paths"][cell.fold] = cell.raw["data"]["split"]
    return [each | {"paths": [each["paths"][fold] for fold in sorted(each["paths"])]} for each in dealt.values()]


def last_line(text: str) -> str:
    r"""Return the line of a process's last words that says what was wrong.

    Args:
        text: What it wrote.

    Example:
        >>> last_line("warning: a\nerror: b is missing\n\n")
        'b is missing'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")]
    found = said[-1].removeprefix("error: ") if said else (lines[-1] if lines else "it said nothing")
    return printable(found)
