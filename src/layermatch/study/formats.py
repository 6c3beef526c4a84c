"""What a study found, for programs: a line for each run, and everything as JSON, which is read again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from layermatch.report.compare import Comparison, Summary
from layermatch.study.design import Draw
from layermatch.study.rows import BESIDE, LEVEL, Finding, Found, Row, rows_of
from layermatch.study.tables import verdict_lines
from layermatch.study.verdict import RULE
from layermatch.text import printable

__all__ = ["as_csv", "as_json", "json_text", "rows_of_plain"]


def as_csv(found: Found) -> str:
    """Return a line for each finished run.

    Args:
        found: What the study knows.
    """
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    names = [metric.name for metric in BESIDE]
    header = (
        "setting",
        "num_labels",
        "seed",
        "fold",
        *names,
        "seconds",
        "processor_seconds",
        "in_one_go",
        "steps",
        "run_dir",
        "settings",
        "data",
        "code",
    )
    writer.writerow(header)
    for finding in found.findings:
        cell, figures = finding.cell, [finding.figure(metric) for metric in BESIDE]
        writer.writerow(
            (
                cell.setting.name,
                finding.results.get("num_labels"),
                cell.seed,
                "" if cell.fold is None else cell.fold,
                *("" if value is None else value for value in figures),
                finding.results.get("seconds"),
                "" if finding.processor is None else finding.processor,
                finding.in_one_go,
                finding.results.get("steps"),
                str(cell.run_dir),
                cell.fingerprint,
                " ".join(finding.data),
                " and then ".join(map(str, finding.code)),
            )
        )
    return file.getvalue()


def as_json(found: Found) -> str:
    """Return everything, for programs.

    Args:
        found: What the study knows.
    """
    content = {
        "study": found.study.name,
        "title": found.study.title,
        "command": found.command,
        "written": found.written,
        "fingerprint": found.fingerprint,
        "asked": found.study.plain(),
        "data": list(found.data),
        "machines": found.machines,
        "versions": _versions(found),
        "code": found.code.plain(),
        "metric": found.study.metric.name,
        "rule": found.rule,
        "runs": len(found.cells),
        "finished": len(found.findings),
        "notes": list(found.notes),
        "left_out": dict(found.left_out),
        "failed": dict(found.failed),
        "verdict_rule": RULE if found.study.has_verdicts else None,
        "verdicts": verdict_lines(found),
        "rows": [_plain_row(row, labels) for labels, rows in rows_of(found).items() for row in rows],
        "cells": [_plain_cell(finding) for finding in found.findings],
    }
    return json_text(content)


def json_text(content: Mapping[str, Any]) -> str:
    """Return the content of ``study.json`` as its text: indented, and each run in a line.

    Args:
        content: The content, with a list ``cells``.

    Example:
        >>> print(json_text({"study": "smoke", "cells": [{"seed": 0}, {"seed": 1}]}), end="")
        {
         "study": "smoke",
         "cells": [
        {"seed": 0},
        {"seed": 1}
        ]}
    """
    others = {key: value for key, value in content.items() if key != "cells"}
    text = json.dumps({**others, "cells": []}, indent=1)
    lines = ",\n".join(json.dumps(cell) for cell in content["cells"])
    return text.removesuffix("[]\n}") + f"[\n{lines}\n]}}\n"


def _plain_row(row: Row, labels: int | None) -> dict[str, Any]:
    return {
        "setting": row.setting,
        "labels": labels,
        "num_labels": row.num_labels,
        "by_seed": {_key(draw): value for draw, value in row.by_draw.items()},
        "summary": _plain_summary(row.summary),
        "figures": {metric.name: _plain_summary(summary) for metric, summary in row.figures.items()},
        "seconds": _plain_summary(row.seconds),
        "processor_seconds": _plain_summary(row.processor),
        "reference": row.reference or None,
        "difference": _plain_comparison(row.comparison),
    } | ({"changed_from": row.changed_from, "change": _plain_comparison(row.change)} if row.changed_from else {})


def _plain_comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    return {
        "mean": comparison.difference,
        "interval": None if comparison.interval is None else list(comparison.interval),
        "level": LEVEL,
        "wins": comparison.wins,
        "ties": comparison.ties,
        "n": comparison.n,
    }


def rows_of_plain(content: Mapping[str, Any]) -> dict[int | None, list[Row]]:
    """Return the rows that ``study.json`` holds, by number of labels, in their order.

    Args:
        content: The content of ``study.json``.

    Raises:
        KeyError, TypeError, ValueError: It is not what a study wrote.
    """
    rows: dict[int | None, list[Row]] = {}
    for row in content["rows"]:
        rows.setdefault(row["labels"], []).append(_row_of_plain(row))
    return rows


def _row_of_plain(row: Mapping[str, Any]) -> Row:
    known = {metric.name: metric for metric in BESIDE}
    return Row(
        setting=str(row["setting"]),
        num_labels=row["num_labels"],
        by_draw={_draw(key): float(value) for key, value in row["by_seed"].items()},
        figures={known[name]: Summary(**summary) for name, summary in row["figures"].items() if name in known},
        seconds=None if row["seconds"] is None else Summary(**row["seconds"]),
        processor=None if row.get("processor_seconds") is None else Summary(**row["processor_seconds"]),
        reference=row["reference"] or "",
        comparison=_comparison_of_plain(row["difference"]),
        changed_from=row.get("changed_from", ""),
        change=_comparison_of_plain(row.get("change")),
    )


def _comparison_of_plain(found: Mapping[str, Any] | None) -> Comparison | None:
    if found is None:
        return None
    return Comparison(
        difference=found["mean"],
        interval=None if found["interval"] is None else tuple(found["interval"]),
        wins=found["wins"],
        ties=found["ties"],
        n=found["n"],
    )


def _key(draw: Draw) -> str:
    return "/".join(map(str, draw)) if isinstance(draw, tuple) else str(draw)


def _draw(key: str) -> Draw:
    seed, _, fold = key.partition("/")
    return (int(seed), int(fold)) if fold else int(seed)


def _versions(found: Found) -> dict[str, list[str]]:
    """Return the versions of what the runs were made with, each once."""
    versions: dict[str, dict[str, None]] = {}
    for finding in found.findings:
        given = finding.results.get("versions")
        for name, version in given.items() if isinstance(given, Mapping) else ():
            versions.setdefault(printable(name), {})[printable(version)] = None
    return {name: list(each) for name, each in versions.items()}


def _plain_summary(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else {"mean": summary.mean, "std": summary.std, "n": summary.n}


def _plain_cell(finding: Finding) -> dict[str, Any]:
    cell = finding.cell
    return {
        "setting": cell.setting.name,
        "labels": cell.num_labels,
        "seed": cell.seed,
        "fold": cell.fold,
        "words": list(cell.words),
        "run_dir": str(cell.run_dir),
        "settings": cell.fingerprint,
        "data": list(finding.data),
        "code": [code.plain() for code in finding.code],
        "figures": {metric.name: finding.figure(metric) for metric in BESIDE},
        "seconds": finding.results.get("seconds"),
        "processor_seconds": finding.processor,
        "in_one_go": finding.in_one_go,
        "curves": {
            name: {"steps": curve.steps, "values": [round(value, 4) for value in curve.values]}
            for name, curve in finding.curves.items()
        },
    }
