"""What a study found: figures of each setting over its seeds, and differences paired by seed."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layermatch.metrics import (
    ACCURACY_ACCEPTED,
    MASK_RATE,
    TEST_ACCURACY_EMA,
    TEST_MACRO_EMA,
    VAL_ACCURACY_EMA,
    VAL_MACRO_EMA,
    VAL_MEDIAN_EMA,
    Metric,
)
from layermatch.report.compare import Comparison, Summary, compare, summarise
from layermatch.report.tables import Table, markdown, markdown_text
from layermatch.runs.quantities import duration, percent
from layermatch.runs.reading import finite_number
from layermatch.study.code import CodeVersion
from layermatch.study.design import Cell, Setting, Study, fingerprint_of

__all__ = ["Finding", "Found", "Row", "as_csv", "as_json", "as_markdown", "result_tables"]

#: What is shown beside what is compared, where there is any: of the last step, but for the median.
BESIDE = (
    TEST_ACCURACY_EMA, TEST_MACRO_EMA, VAL_ACCURACY_EMA, VAL_MACRO_EMA, VAL_MEDIAN_EMA, MASK_RATE, ACCURACY_ACCEPTED,
)  # fmt: skip

#: A mean over the classes says nothing new where it is nowhere further from that over all images.
SAME = 0.005
OF_ALL_IMAGES = {TEST_MACRO_EMA: TEST_ACCURACY_EMA, VAL_MACRO_EMA: VAL_ACCURACY_EMA}

NONE = "\N{EN DASH}"
LEVEL = 0.95


@dataclass(frozen=True)
class Finding:
    """A finished run.

    Args:
        cell: The run.
        results: The content of its ``results.json``.
        code: The code that it was made by, as far as it was noted.
        data: The digests of its data, as far as they were noted.
        in_one_go: Whether its seconds are those of all its steps.
    """

    cell: Cell
    results: Mapping[str, Any]
    code: tuple[CodeVersion, ...] = ()
    data: tuple[str, ...] = ()
    in_one_go: bool = True

    def figure(self, metric: Metric) -> float | None:
        """Return a figure of the run; None where there is none."""
        return finite_number(metric.read(self.results))

    @property
    def seconds(self) -> float | None:
        """What the run took; None where it was interrupted."""
        return finite_number(self.results.get("seconds")) if self.in_one_go else None


@dataclass(frozen=True)
class Found:
    """All that a study knows.

    Args:
        study: The study.
        cells: All its runs.
        findings: Those that are finished.
        left_out: The settings that are left out, with the reason.
        failed: The runs that failed, by title, with the reason.
        notes: What has to be said beside the tables: a line each.
        code: The code as it is now.
        data: The digests of the data that finished runs had, each once.
        written: The time at which it is written, as text.
    """

    study: Study
    cells: Sequence[Cell]
    findings: Sequence[Finding]
    left_out: Mapping[str, str]
    failed: Mapping[str, str]
    notes: Sequence[str]
    code: CodeVersion
    data: Sequence[str]
    written: str

    @property
    def fingerprint(self) -> str:
        """Ten digits of what is asked: the composed settings of every run, the reference and what is compared."""
        runs = sorted((cell.setting.name, str(cell.num_labels), cell.seed, cell.fingerprint) for cell in self.cells)
        asked = self.study.plain()
        return fingerprint_of([runs, asked["reference"], asked["metric"]])

    @property
    def rule(self) -> str:
        """Say by what rule the weights that are compared were chosen, in words."""
        selections = {finding.cell.raw["checkpoint"]["selection"] for finding in self.findings} or {
            cell.raw["checkpoint"]["selection"] for cell in self.cells
        }
        weights = {
            "last": "the weights of the last step",
            "best_val": "the weights with the best validation accuracy",
        }
        chosen = " or ".join(sorted(weights.get(selection, str(selection)) for selection in selections))
        metric = self.study.metric
        of_median = " of the last 20 evaluations on validation images" if metric == VAL_MEDIAN_EMA else ""
        where = "validation" if metric.name.startswith("val/") else "test"
        looked = (
            "what is chosen by it is to be reported on test images with other seeds"
            if where == "validation"
            else "nothing was chosen on test images"
        )
        return f"{metric.title}: averaged (EMA) weights, {chosen}{of_median}; {looked}."


@dataclass(frozen=True)
class Row:
    """A setting at a number of labels.

    Args:
        setting: The setting.
        num_labels: The number of labelled images that the runs had; None where it is not known.
        by_seed: What is compared, by seed.
        figures: The summary of each other figure.
        seconds: The summary of what a run took.
        reference: The name of the setting that it is compared with; empty for none.
        comparison: The difference, paired by seed; None without a common seed.
    """

    setting: Setting
    num_labels: int | None
    by_seed: Mapping[int, float]
    figures: Mapping[Metric, Summary]
    seconds: Summary | None
    reference: str
    comparison: Comparison | None

    @property
    def summary(self) -> Summary | None:
        """Mean, standard deviation and n of what is compared."""
        return summarise(self.by_seed.values())


def rows_of(found: Found) -> dict[int | None, list[Row]]:
    """Return the rows of each number of labels that the study names, in its order.

    Args:
        found: What the study knows.
    """
    study = found.study
    rows: dict[int | None, list[Row]] = {}
    for labels in study.num_labels:
        of_setting: dict[str, list[Finding]] = {setting.name: [] for setting in study.settings}
        for finding in found.findings:
            if finding.cell.num_labels == labels:
                of_setting[finding.cell.setting.name].append(finding)
        values = {name: _by_seed(findings, study.metric) for name, findings in of_setting.items()}
        rows[labels] = [
            _row(study, setting, of_setting[setting.name], values)
            for setting in study.settings
            if of_setting[setting.name]
        ]
    return rows


def _row(study: Study, setting: Setting, findings: Sequence[Finding], values: Mapping[str, dict[int, float]]) -> Row:
    reference = study.reference_of(setting)
    summaries = {
        metric: summarise(value for finding in findings if (value := finding.figure(metric)) is not None)
        for metric in BESIDE
    }
    counts = {finding.results.get("num_labels") for finding in findings}
    number = counts.pop() if len(counts) == 1 else None
    return Row(
        setting=setting,
        num_labels=number if isinstance(number, int) else None,
        by_seed=values[setting.name],
        figures={metric: summary for metric, summary in summaries.items() if summary is not None},
        seconds=summarise(finding.seconds for finding in findings if finding.seconds is not None),
        reference="" if reference is None else reference.name,
        comparison=None if reference is None else compare(values[setting.name], values[reference.name], level=LEVEL),
    )


def _by_seed(findings: Sequence[Finding], metric: Metric) -> dict[int, float]:
    found = {finding.cell.seed: finding.figure(metric) for finding in findings}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


# ------------------------------------------------------------------------------------------------------------- tables


def result_tables(found: Found, *, is_brief: bool = False) -> list[Table]:
    """Return the tables of a study, two for each number of labels.

    Args:
        found: What the study knows.
        is_brief: Whether only what is compared is shown.
    """
    tables = []
    for labels, rows in rows_of(found).items():
        if rows:
            where = "" if labels is None else f", {labels} labels"
            tables.append(_compared(found, rows, where))
            if not is_brief:
                tables.append(_beside(found, rows, where))
    return tables


def _compared(found: Found, rows: Sequence[Row], where: str) -> Table:
    lines = tuple(
        (
            row.setting.name,
            _share(row.summary),
            str(len(row.by_seed)),
            " ".join(f"{100 * value:.1f}" for value in row.by_seed.values()) or NONE,
            row.reference or NONE,
            *_comparison(row.comparison),
        )
        for row in rows
    )
    seeds = sorted({seed for row in rows for seed in row.by_seed})
    lacking = [f"{row.setting.name} lacks {_seeds(set(seeds) - set(row.by_seed))}" for row in rows
               if set(row.by_seed) < set(seeds)]  # fmt: skip
    note = f"Each seed: {_seeds(seeds)}, in this order{'; ' + '; '.join(lacking) if lacking else ''}."
    header = (
        "Setting",
        found.study.metric.in_row,
        "n",
        "Each seed",
        "Against",
        "Difference",
        "95 % interval",
        "Better in",
    )
    return Table(f"{found.study.metric.title}{where}", header, lines, note)


def _seeds(seeds: Sequence[int] | set[int]) -> str:
    ordered = sorted(seeds)
    is_run = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
    shown = f"{ordered[0]} to {ordered[-1]}" if is_run else ", ".join(map(str, ordered))
    return f"seed{'s' * (len(ordered) != 1)} {shown}"


def _comparison(found: Comparison | None) -> tuple[str, str, str]:
    if found is None:
        return (NONE, NONE, NONE)
    interval = "none of one pair" if found.interval is None else " to ".join(_points(end) for end in found.interval)
    ties = f", equal in {found.ties}" if found.ties else ""
    return (_points(found.difference), interval, f"{found.wins} of {found.n}{ties}")


def _points(share: float) -> str:
    return percent(share, sign=True).rstrip("%").rstrip()


def _share(summary: Summary | None) -> str:
    if summary is None:
        return NONE
    return f"{percent(summary.mean)}{'' if summary.std is None else f' ± {100 * summary.std:.1f}'}"


def _beside(found: Found, rows: Sequence[Row], where: str) -> Table:
    shown = [metric for metric in BESIDE if any(metric in row.figures for row in rows)]
    shown = [metric for metric in shown if metric != found.study.metric and not _says_nothing_new(metric, rows)]
    lines = tuple(
        (
            row.setting.name,
            NONE if row.num_labels is None else str(row.num_labels),
            *(_share(row.figures.get(metric)) for metric in shown),
            NONE if row.seconds is None else duration(row.seconds.mean),
        )
        for row in rows
    )
    header = ("Setting", "Labels", *(metric.in_row for metric in shown), "A run")
    return Table(
        f"Beside it{where}",
        header,
        lines,
        "Means ± standard deviations over the same seeds, at the last step; the median is of the last 20 evaluations. "
        "Pseudo-labels: of the last steps. A run: the mean time of those that were not interrupted.",
    )


def _says_nothing_new(metric: Metric, rows: Sequence[Row]) -> bool:
    other = OF_ALL_IMAGES.get(metric)
    if other is None:
        return False
    pairs = [(row.figures[metric].mean, row.figures[other].mean) for row in rows if {metric, other} <= set(row.figures)]
    return all(abs(of_classes - of_images) < SAME for of_classes, of_images in pairs)


# -------------------------------------------------------------------------------------------------------------- files

MARK = "layermatch.study"


def identity_lines(found: Found) -> list[str]:
    """Return what the tables are the tables of, in lines."""
    made = Counter(
        " and then ".join(str(code) for code in finding.code) or "unknown code" for finding in found.findings
    )
    by = "; ".join(f"{_runs(count)} by {code}" for code, count in made.items())
    data = ", ".join(found.data) or "not known yet"
    lines = [
        f"Study {found.study.name}, {found.written}: {len(found.findings)} of {_runs(len(found.cells))} finished.",
        f"Settings {found.fingerprint}; data {data}; {by or f'code now: {found.code}'}.",
        found.rule,
        "Differences are paired by seed, in percentage points, with the interval of Student's t distribution; few "
        "seeds make wide ones, and of many settings some look good by chance.",
    ]
    best = _highest(found)
    return [*lines, *([best] if best else [])]


def _highest(found: Found) -> str:
    """Return what would be chosen, where validation images choose."""
    if not found.study.metric.name.startswith("val/"):
        return ""
    parts = []
    for labels, rows in rows_of(found).items():
        means = {row.setting.name: row.summary.mean for row in rows if row.summary is not None}
        if means:
            where = "" if labels is None else f" with {labels} labels"
            parts.append(f"{max(means, key=lambda name: means[name])}{where}")
    return f"The highest mean has {'; '.join(parts)}." if parts else ""


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def as_markdown(found: Found) -> str:
    """Return the tables, and what they are of, as Markdown.

    Args:
        found: What the study knows.
    """
    parts = [f"<!-- {MARK} -->\n# {markdown_text(found.study.title)}"]
    parts.append("\n".join(f"{markdown_text(line)}  " for line in identity_lines(found)).rstrip())
    if found.notes:
        parts.append("\n".join(f"- **Careful:** {markdown_text(note)}" for note in found.notes))
    parts += [markdown(table) for table in result_tables(found)]
    for title, reasons in (("Left out", found.left_out), ("Failed", found.failed)):
        if reasons:
            rows = tuple((name, why) for name, why in reasons.items())
            parts.append(
                markdown(Table(title, ("Setting" if title == "Left out" else "Run", "Why"), rows, is_numeric=False))
            )
    return "\n\n".join(parts) + "\n"


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
        *names,
        "seconds",
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
                *("" if value is None else value for value in figures),
                finding.results.get("seconds"),
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
    """Everything, for programs.

    Args:
        found: What the study knows.
    """
    content = {
        "study": found.study.name,
        "title": found.study.title,
        "written": found.written,
        "fingerprint": found.fingerprint,
        "asked": found.study.plain(),
        "data": list(found.data),
        "code": found.code.plain(),
        "metric": found.study.metric.name,
        "rule": found.rule,
        "runs": len(found.cells),
        "finished": len(found.findings),
        "notes": list(found.notes),
        "left_out": dict(found.left_out),
        "failed": dict(found.failed),
        "rows": [_plain_row(row, labels) for labels, rows in rows_of(found).items() for row in rows],
        "cells": [_plain_cell(finding) for finding in found.findings],
    }
    return json.dumps(content, indent=1) + "\n"


def _plain_row(row: Row, labels: int | None) -> dict[str, Any]:
    comparison = row.comparison
    return {
        "setting": row.setting.name,
        "labels": labels,
        "num_labels": row.num_labels,
        "by_seed": {str(seed): value for seed, value in row.by_seed.items()},
        "summary": _plain_summary(row.summary),
        "figures": {metric.name: _plain_summary(summary) for metric, summary in row.figures.items()},
        "seconds": _plain_summary(row.seconds),
        "reference": row.reference or None,
        "difference": None
        if comparison is None
        else {
            "mean": comparison.difference,
            "interval": None if comparison.interval is None else list(comparison.interval),
            "level": LEVEL,
            "wins": comparison.wins,
            "ties": comparison.ties,
            "n": comparison.n,
        },
    }


def _plain_summary(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else {"mean": summary.mean, "std": summary.std, "n": summary.n}


def _plain_cell(finding: Finding) -> dict[str, Any]:
    cell = finding.cell
    return {
        "setting": cell.setting.name,
        "labels": cell.num_labels,
        "seed": cell.seed,
        "words": list(cell.words),
        "run_dir": str(cell.run_dir),
        "settings": cell.fingerprint,
        "data": list(finding.data),
        "code": [code.plain() for code in finding.code],
        "figures": {metric.name: finding.figure(metric) for metric in BESIDE},
        "seconds": finding.results.get("seconds"),
        "in_one_go": finding.in_one_go,
    }
