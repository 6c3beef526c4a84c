"""What a study found: figures of each setting over its seeds, and differences paired by seed."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from layermatch.runs.metrics_file import Curve
from layermatch.runs.quantities import duration, percent, points
from layermatch.runs.reading import finite_number
from layermatch.runs.text import printable
from layermatch.study.code import CodeVersion
from layermatch.study.design import Cell, Draw, Setting, Study, fingerprint_of
from layermatch.study.verdict import RULE, verdict_on

__all__ = [
    "NONE",
    "Finding",
    "Found",
    "Row",
    "as_csv",
    "as_json",
    "as_markdown",
    "code_text",
    "json_text",
    "result_tables",
    "rows_of",
    "rows_of_plain",
    "tables_of",
    "verdict_lines",
]

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
        machine: The machines that it was made on, as far as they were noted.
        processor: The processor seconds that it took; None where they are not known.
        curves: The curves that are kept, by the name of the metric.
    """

    cell: Cell
    results: Mapping[str, Any]
    code: tuple[CodeVersion, ...] = ()
    data: tuple[str, ...] = ()
    in_one_go: bool = True
    machine: tuple[str, ...] = ()
    processor: float | None = None
    curves: Mapping[str, Curve] = field(default_factory=dict)

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
        command: The command of the study, for people.
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
    command: str
    data: Sequence[str]
    written: str

    @property
    def machines(self) -> list[str]:
        """The machines that the runs were made on, each once."""
        return list(dict.fromkeys(machine for finding in self.findings for machine in finding.machine))

    @property
    def fingerprint(self) -> str:
        """Ten digits of what is asked: the composed settings of every run, the reference and what is compared."""
        runs = sorted((cell.setting.name, str(cell.num_labels), cell.draw, cell.fingerprint) for cell in self.cells)
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
        if self.study.folds is not None:
            looked = "each run on the labelled images that it held out, by which nothing was chosen"
        return f"{metric.title}: averaged (EMA) weights, {chosen}{of_median}; {looked}."


@dataclass(frozen=True)
class Row:
    """A setting at a number of labels.

    Args:
        setting: The name of the setting.
        num_labels: The number of labelled images that the runs had; None where it is not known, or not the same.
        by_draw: What is compared, by what runs are paired by: the seed; with folds, seed and fold.
        figures: The summary of each other figure.
        seconds: The summary of the time that a run took.
        processor: The summary of the processor seconds that a run took.
        reference: The name of the setting that it is compared with; empty for none.
        comparison: The difference, paired; None without a common draw.
    """

    setting: str
    num_labels: int | None
    by_draw: Mapping[Draw, float]
    figures: Mapping[Metric, Summary]
    seconds: Summary | None
    processor: Summary | None
    reference: str
    comparison: Comparison | None

    @property
    def summary(self) -> Summary | None:
        """Mean, standard deviation and n of what is compared."""
        return summarise(self.by_draw.values())


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
        values = {name: _by_draw(findings, study.metric) for name, findings in of_setting.items()}
        rows[labels] = [
            _row(study, setting, of_setting[setting.name], values)
            for setting in study.settings
            if of_setting[setting.name]
        ]
    return rows


def _row(study: Study, setting: Setting, findings: Sequence[Finding], values: Mapping[str, dict[Draw, float]]) -> Row:
    reference = study.reference_of(setting)
    summaries = {
        metric: summarise(value for finding in findings if (value := finding.figure(metric)) is not None)
        for metric in BESIDE
    }
    counts = {finding.results.get("num_labels") for finding in findings}
    number = counts.pop() if len(counts) == 1 else None
    comparison = None
    if reference is not None:
        comparison = compare(values[setting.name], values[reference.name], level=LEVEL, overlap=_overlap(study.folds))
    return Row(
        setting=setting.name,
        num_labels=number if isinstance(number, int) else None,
        by_draw=values[setting.name],
        figures={metric: summary for metric, summary in summaries.items() if summary is not None},
        seconds=summarise(finding.seconds for finding in findings if finding.seconds is not None),
        processor=summarise(finding.processor for finding in findings if finding.processor is not None),
        reference="" if reference is None else reference.name,
        comparison=comparison,
    )


def _overlap(folds: int | None) -> float:
    """Return how many images a run holds out for each one that it learns from: runs of a seed share the others."""
    return 0.0 if folds is None else 1 / (folds - 1)


def _by_draw(findings: Sequence[Finding], metric: Metric) -> dict[Draw, float]:
    found = {finding.cell.draw: finding.figure(metric) for finding in findings}
    return {draw: value for draw in _ordered(found) if (value := found[draw]) is not None}


def _ordered(draws: Iterable[Draw]) -> list[Draw]:
    return sorted(draws, key=lambda draw: draw if isinstance(draw, tuple) else (draw, 0))


# ------------------------------------------------------------------------------------------------------------- tables


def result_tables(found: Found, *, is_brief: bool = False) -> list[Table]:
    """Return the tables of a study, two for each number of labels.

    Args:
        found: What the study knows.
        is_brief: Whether only what is compared is shown.
    """
    return tables_of(rows_of(found), metric=found.study.metric, is_brief=is_brief)


def tables_of(rows: Mapping[int | None, Sequence[Row]], *, metric: Metric, is_brief: bool = False) -> list[Table]:
    """Return two tables for each number of labels.

    Args:
        rows: The rows of each number of labels.
        metric: What is compared.
        is_brief: Whether only what is compared is shown.
    """
    tables = []
    for labels, found in rows.items():
        if found:
            where = "" if labels is None else f", {labels} labels"
            tables.append(_compared(metric, found, where))
            if not is_brief:
                tables.append(_beside(metric, found, where))
    return tables


def _compared(metric: Metric, rows: Sequence[Row], where: str) -> Table:
    draws = _ordered({draw for row in rows for draw in row.by_draw})
    has_folds = any(isinstance(draw, tuple) for draw in draws)
    lines = tuple(
        (
            row.setting,
            _share(row.summary),
            str(len(row.by_draw)),
            " ".join(f"{100 * value:.1f}" for value in row.by_draw.values()) or NONE,
            row.reference or NONE,
            *_comparison(row.comparison),
        )
        for row in rows
    )
    lacking = [f"{row.setting} lacks {_draws(set(draws) - set(row.by_draw))}" for row in rows
               if set(row.by_draw) < set(draws)]  # fmt: skip
    each = "Each fold" if has_folds else "Each seed"
    note = f"{each}: {_draws(draws)}, in this order{'; ' + '; '.join(lacking) if lacking else ''}."
    header = (
        "Setting",
        metric.in_row,
        "n",
        each,
        "Against",
        "Difference",
        "95 % interval",
        "Better in",
    )
    return Table(f"{metric.title}{where}", header, lines, note)


def _draws(draws: Collection[Draw]) -> str:
    """Return draws in words."""
    seeds = [draw for draw in draws if not isinstance(draw, tuple)]
    folds: dict[int, list[int]] = {}
    for draw in draws:
        if isinstance(draw, tuple):
            folds.setdefault(draw[0], []).append(draw[1])
    parts = [_numbers("seed", seeds)] if seeds else []
    parts += [f"{_numbers('fold', numbers)} of seed {seed}" for seed, numbers in sorted(folds.items())]
    return "; ".join(parts)


def _numbers(what: str, numbers: Collection[int]) -> str:
    ordered = sorted(numbers)
    is_run = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
    shown = f"{ordered[0]} to {ordered[-1]}" if is_run else ", ".join(map(str, ordered))
    return f"{what}{'s' * (len(ordered) != 1)} {shown}"


def _comparison(found: Comparison | None) -> tuple[str, str, str]:
    if found is None:
        return (NONE, NONE, NONE)
    interval = "none of one pair" if found.interval is None else " to ".join(points(end) for end in found.interval)
    ties = f", equal in {found.ties}" if found.ties else ""
    return (points(found.difference), interval, f"{found.wins} of {found.n}{ties}")


def _share(summary: Summary | None) -> str:
    if summary is None:
        return NONE
    return f"{percent(summary.mean)}{'' if summary.std is None else f' ± {100 * summary.std:.1f}'}"


def _beside(metric: Metric, rows: Sequence[Row], where: str) -> Table:
    shown = [each for each in BESIDE if any(each in row.figures for row in rows)]
    shown = [each for each in shown if each != metric and not _says_nothing_new(each, rows)]
    lines = tuple(
        (
            row.setting,
            NONE if row.num_labels is None else str(row.num_labels),
            *(_share(row.figures.get(each)) for each in shown),
            *(NONE if time is None else duration(time.mean) for time in (row.seconds, row.processor)),
        )
        for row in rows
    )
    header = ("Setting", "Labels", *(each.in_row for each in shown), "A run", "Processor")
    return Table(
        f"Beside it{where}",
        header,
        lines,
        "Means ± standard deviations over the same seeds, at the last step; the median is of the last 20 evaluations. "
        "Pseudo-labels: of the last steps. A run: the mean time of those that were not interrupted, however many "
        "shared the machine, without the start of Python. Processor: the mean time that processors worked for it, all "
        "in all.",
    )


def _says_nothing_new(metric: Metric, rows: Sequence[Row]) -> bool:
    other = OF_ALL_IMAGES.get(metric)
    if other is None:
        return False
    pairs = [(row.figures[metric].mean, row.figures[other].mean) for row in rows if {metric, other} <= set(row.figures)]
    return all(abs(of_classes - of_images) < SAME for of_classes, of_images in pairs)


# -------------------------------------------------------------------------------------------------------------- files

MARK = "layermatch.study"


INTERVAL = (
    "Differences are paired by seed, in percentage points, with the interval of Student's t distribution; few "
    "seeds make wide ones, and of many settings some look good by chance."
)
INTERVAL_OF_FOLDS = (
    "Differences are paired by seed and fold, in percentage points. The folds of a seed share most of what they learn "
    "from, so that the interval of Student's t distribution is taken with the variance of Nadeau and Bengio (2003), "
    "(1/n + 1/(k - 1)) s², for n pairs and k folds."
)


def code_text(text: str) -> str:
    """Return untrusted text of one line as code in Markdown, where it has no meaning and can be copied.

    Args:
        text: The text.

    Example:
        >>> code_text("python -m layermatch.study 'study.seeds=[0,1]'")
        "`python -m layermatch.study 'study.seeds=[0,1]'`"
    """
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


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
        *(f"Machine: {machine}." for machine in found.machines),
    ]
    if found.study.folds is not None:
        return [*lines, INTERVAL_OF_FOLDS, RULE]
    best = _highest(found)
    return [*lines, INTERVAL, *([best] if best else [])]


def _highest(found: Found) -> str:
    """Return what would be chosen, where validation images choose."""
    if not found.study.metric.name.startswith("val/"):
        return ""
    parts = []
    for labels, rows in rows_of(found).items():
        means = {row.setting: row.summary.mean for row in rows if row.summary is not None}
        if means:
            where = "" if labels is None else f" with {labels} labels"
            parts.append(f"{max(means, key=lambda name: means[name])}{where}")
    return f"The highest mean has {'; '.join(parts)}." if parts else ""


def verdict_lines(found: Found) -> list[str]:
    """Return what a study with folds says of each setting, a line each; nothing for a study without folds.

    Args:
        found: What the study knows.
    """
    if found.study.folds is None:
        return []
    lines = []
    for labels, rows in rows_of(found).items():
        where = "" if labels is None else f" with {labels} labels"
        lines += [
            verdict_on(row.comparison).sentence(row.setting, row.reference, where=where)
            for row in rows
            if row.comparison is not None
        ]
    return lines


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def as_markdown(found: Found) -> str:
    """Return the tables, and what they are of, as Markdown.

    Args:
        found: What the study knows.
    """
    parts = [f"<!-- {MARK} -->\n# {markdown_text(found.study.title)}"]
    parts.append("\n".join(f"{markdown_text(line)}  " for line in identity_lines(found)).rstrip())
    parts.append(code_text(found.command))
    if found.notes:
        parts.append("\n".join(f"- **Careful:** {markdown_text(note)}" for note in found.notes))
    parts += [f"**{markdown_text(line)}**" for line in verdict_lines(found)]
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
    """Everything, for programs.

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
        "verdict_rule": None if found.study.folds is None else RULE,
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
    comparison = row.comparison
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
    found = row["difference"]
    return Row(
        setting=str(row["setting"]),
        num_labels=row["num_labels"],
        by_draw={_draw(key): float(value) for key, value in row["by_seed"].items()},
        figures={known[name]: Summary(**summary) for name, summary in row["figures"].items() if name in known},
        seconds=None if row["seconds"] is None else Summary(**row["seconds"]),
        processor=None if row.get("processor_seconds") is None else Summary(**row["processor_seconds"]),
        reference=row["reference"] or "",
        comparison=None
        if found is None
        else Comparison(
            difference=found["mean"],
            interval=None if found["interval"] is None else tuple(found["interval"]),
            wins=found["wins"],
            ties=found["ties"],
            n=found["n"],
        ),
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
