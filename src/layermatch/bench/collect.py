"""``python -m layermatch.bench.collect``: what the parts of benchmarks/gpu.sh left, as one file, and what failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from layermatch.arguments import OneLineParser, start_command
from layermatch.bench.accuracy import ACCURACY_FORMAT
from layermatch.bench.report import FORMAT
from layermatch.console import table
from layermatch.errors import UserError
from layermatch.files import replace_text
from layermatch.paths import argument_path

__all__ = ["GPU_FORMAT", "collected", "main"]

#: The mark of the file.
GPU_FORMAT = "layermatch gpu 1"

#: What ``timeout`` ends with where the time was up, and what the script writes for a part that got no time.
TIME_UP, NO_TIME = 124, 125

PARTS, RESULT = "parts.tsv", "gpu.json"


def collected(folder: Path) -> dict[str, Any]:
    """Return one result of all that lies in a folder.

    Args:
        folder: It holds ``parts.tsv``, a line ``name, status, seconds, limit`` for each part, and the JSON files of the
            parts that wrote one.

    Returns:
        ``parts`` with their ``outcome`` in words; ``sections`` of ``bench``, those of one name put together;
        ``accuracy``, the result of ``bench accuracy``, or None; and ``machine``.

    Raises:
        UserError: There is no ``parts.tsv``, or it is broken.
    """
    try:
        lines = (folder / PARTS).read_text(encoding="utf-8").splitlines()
        parts = [_part(*line.split("\t")) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} holds no {PARTS} of benchmarks/gpu.sh: {error}") from error
    result: dict[str, Any] = {"format": GPU_FORMAT, "parts": parts, "machine": None, "sections": {}, "accuracy": None}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # of a part that was ended while it wrote: the part has failed already
        if isinstance(content, dict) and content.get("format") == FORMAT:
            result["machine"] = result["machine"] or content["machine"]
            for name, section in content["sections"].items():
                _add(result["sections"].setdefault(name, {"settings": {}, "ratios": [], "figures": []}), section)
        elif isinstance(content, dict) and content.get("format") == ACCURACY_FORMAT:
            result["accuracy"] = content
            of_runs = [run["machine"] for run in content["runs"].values()]
            result["machine"] = result["machine"] or next(iter(of_runs), None)
    result["machine"] = result["machine"] or {"gpu": None}
    return result


def _part(name: str, status: str, seconds: str, limit: str) -> dict[str, Any]:
    code = int(status)
    outcome = {0: "passed", TIME_UP: f"time was up after {limit} s", NO_TIME: "no time was left"}
    return {
        "name": name,
        "status": code,
        "seconds": int(seconds),
        "limit": int(limit),
        "outcome": outcome.get(code, f"failed with status {code}"),
    }


def _add(whole: dict[str, Any], section: dict[str, Any]) -> None:
    whole["settings"] |= section["settings"]
    for name in ("ratios", "figures"):
        whole[name] += section[name]


def _collect(arguments: Sequence[str] | None, console: Console) -> None:
    parser = OneLineParser(prog="python -m layermatch.bench.collect", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=argument_path, help="what benchmarks/gpu.sh wrote into")
    folder: Path = parser.parse_args(arguments).folder
    result = collected(folder)
    replace_text(folder / RESULT, json.dumps(result, indent=1) + "\n")
    rows: list[tuple[str, ...]] = [(part["name"], part["outcome"], str(part["seconds"])) for part in result["parts"]]
    console.print(table(f"benchmarks/gpu.sh, {result['machine']['gpu'] or 'no GPU'}", rows, header=("part", "", "s")))
    failed = [part["name"] for part in result["parts"] if part["status"]]
    told = f"failed: {', '.join(failed)}; see {folder}/NAME.log" if failed else "every part passed"
    console.print(f"written to {folder / RESULT}; {told}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake of the user is one line on standard error and status 2, a failed part status 1.

    Args:
        arguments: The arguments of the command line; None takes the process's.
    """
    start_command(_collect, arguments)


if __name__ == "__main__":
    main()
