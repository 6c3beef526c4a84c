"""The tables of a study, and what they are of, for people: on the terminal, and as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from layermatch.metrics import (
    TEST_ACCURACY_EMA,
    TEST_MACRO_EMA,
    VAL_ACCURACY_EMA,
    VAL_MACRO_EMA,
    Metric,
)
from layermatch.report.compare import Comparison, Summary
from layermatch.report.tables import Table, markdown, markdown_text
from layermatch.runs.quantities import duration, percent, points
from layermatch.study.baselines import of_labels_alone
from layermatch.study.design import Draw
from layermatch.study.rows import BESIDE, Found, Row, ordered, rows_of
from layermatch.study.verdict import RULE, better_of, verdict_on

__all__ = ["BESIDE_NOTE", "NONE", "as_markdown", "code_text", "result_tables", "tables_of", "verdict_lines"]

#: A mean over the classes says nothing new where it is nowhere further from that over all images.
SAME = 0.005
OF_ALL_IMAGES = {TEST_MACRO_EMA: TEST_ACCURACY_EMA, VAL_MACRO_EMA: VAL_ACCURACY_EMA}

NONE = "\N{EN DASH}"


# ------------------------------------------------------------------------------------------------------------- tables


def result_tables(found: Found, *, is_brief: bool = False) -> list[Table]:
    """Return the tables of a study, two for each number of labels.

    Args:
        found: What the study knows.
        is_brief: Whether only what is compared is shown.
    """
    return tables_of(rows_of(found), metric=found.study.metric, is_brief=is_brief)


def tables_of(rows: Mapping[int | None, Sequence[Row]], *, metric: Metric, is_brief: bool = False) -> list[Table]:
    """Return two tables for each number of labels, and a third where differences are compared with one another.

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
            if any(row.changed_from for row in found):
                tables.append(_changed(found, where))
            if not is_brief:
                tables.append(_beside(metric, found, where))
    return tables


def _compared(metric: Metric, rows: Sequence[Row], where: str) -> Table:
    draws = ordered({draw for row in rows for draw in row.by_draw})
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


def _changed(rows: Sequence[Row], where: str) -> Table:
    of = {row.setting: row for row in rows}
    lines = tuple(
        (
            row.setting,
            row.reference,
            _comparison(row.comparison)[0],
            row.changed_from,
            _comparison(of[row.changed_from].comparison)[0] if row.changed_from in of else NONE,
            *_comparison(row.change),
        )
        for row in rows
        if row.changed_from
    )
    header = ("Setting", "Against", "Difference", "Beside", "There", "Change", "95 % interval", "Larger in")
    note = "Change: the difference less the difference of the setting beside it, paired by seed."
    return Table(f"Is the difference another one{where}", header, lines, note)


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


#: What stands below the figures beside the metric.
BESIDE_NOTE = (
    "Means ± standard deviations over the same seeds, at the last step; the median is of the last 20 evaluations. "
    "Pseudo-labels: of the last steps. A run: the mean time of those that were not interrupted, however many shared "
    "the machine, without the start of Python. Processor: the mean time that processors worked for it, all in all."
)


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
        BESIDE_NOTE,
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
    rule = RULE if found.study.has_verdicts else ""
    return [*lines, INTERVAL, *filter(None, (rule, _highest(found)))]


def _highest(found: Found) -> str:
    """Return what would be chosen, where validation images choose."""
    if not found.study.metric.is_of_validation:
        return ""
    parts = []
    for labels, rows in rows_of(found).items():
        means = {row.setting: row.summary.mean for row in rows if row.summary is not None}
        if means:
            where = "" if labels is None else f" with {labels} labels"
            parts.append(f"{max(means, key=lambda name: means[name])}{where}")
    return f"The highest mean has {'; '.join(parts)}." if parts else ""


def verdict_lines(found: Found) -> list[str]:
    """Return what a study with folds or of a pretrained network says of each method with a pool, a line each.

    Args:
        found: What the study knows.
    """
    if not found.study.has_verdicts:
        return []
    lines = []
    alone = of_labels_alone(found.cells)
    for labels, rows in rows_of(found).items():
        where = "" if labels is None else f" with {labels} labels"
        for row in rows:
            against = None if row.setting in alone else _against(row, rows, alone, overlap=found.study.overlap)
            if against is not None:
                reference, comparison = against
                lines.append(verdict_on(comparison).sentence(row.setting, reference, where=where))
    return lines


def _against(row: Row, rows: Sequence[Row], alone: Collection[str], *, overlap: float) -> tuple[str, Comparison] | None:
    """Return what the verdict on a setting is against: the better row of labels alone, else the study's reference."""
    if not alone:
        return None if row.comparison is None else (row.reference, row.comparison)
    baselines = [each for each in rows if each.setting in alone and each.by_draw]
    return better_of(row, baselines, overlap=overlap) if baselines else None


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
