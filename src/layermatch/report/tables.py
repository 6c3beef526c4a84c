"""The tables of a report, once for the page, the Markdown file and the terminal."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable
from rich.text import Text

from layermatch.catalogue import Catalogue, Metric, Place
from layermatch.metrics import (
    CATALOGUE,
    TEST_ACCURACY,
    TEST_ACCURACY_EMA,
    VAL_ACCURACY,
    VAL_ACCURACY_EMA,
    of_all_images,
)
from layermatch.report.compare import Comparison, Summary, compare, summarise
from layermatch.report.groups import Group, differing
from layermatch.report.runs import Run
from layermatch.runs import identity
from layermatch.runs.quantities import duration, number, percent
from layermatch.text import printable

__all__ = [
    "Table",
    "class_metric_table",
    "comparison_table",
    "confusion_of",
    "difference_table",
    "markdown",
    "markdown_text",
    "mistake_table",
    "on_terminal",
    "plan_table",
    "result_table",
    "run_table",
    "seed_table",
    "shared_table",
    "version_table",
    "worst_table",
]

NONE = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"

#: Groups of figures in the table of results, in their order; what a method adds follows.
FIRST = ("test", "val")

#: What two accuracies may differ by so that a table shows one: sets that are balanced but for a few images.
SAME = 0.005

#: Classes with the lowest recall that are shown of each setting.
WORST = 3

#: More classes than this are shown by their ends only.
ALL_CLASSES = 20

#: Most confident mistakes shown of a run.
SHOWN_MISTAKES = 8


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading.

    Args:
        caption: What the table shows.
        header: The header of the columns.
        rows: The rows, each as long as the header.
        note: How to read the table.
        is_numeric: Whether the cells are figures.
        headings: The number of cells at the start of a row that say what it is of.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    is_numeric: bool = True
    headings: int = 1


def markdown(table: Table) -> str:
    r"""Return a table as GitHub's Markdown.

    Args:
        table: A table with untrusted text.

    Example:
        >>> print(markdown(Table("Two", ("a", "b"), (("x|y", "<b>"),), is_numeric=False)))
        **Two**
        <BLANKLINE>
        | a | b |
        | --- | --- |
        | x\|y | &lt;b&gt; |
    """
    edge = "---:" if table.is_numeric else "---"
    edges = tuple("---" if place < table.headings else edge for place in range(len(table.header)))
    rows = [table.header, edges, *table.rows]
    lines = [f"| {' | '.join(cells if n == 1 else map(markdown_text, cells))} |" for n, cells in enumerate(rows)]
    return "\n".join(
        [f"**{markdown_text(table.caption)}**", "", *lines, *(("", markdown_text(table.note)) if table.note else ())]
    )


def on_terminal(table: Table) -> RichTable:
    """Return a table for the terminal.

    Args:
        table: A table with untrusted text.
    """
    made = RichTable(title=Text(table.caption, style="bold"), title_justify="left")
    for place, name in enumerate(table.header):
        is_left = place < table.headings or not table.is_numeric
        made.add_column(Text(name), justify="left" if is_left else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def markdown_text(text: str) -> str:
    r"""Write untrusted text such that it has no meaning in Markdown or HTML.

    Args:
        text: A text of one line.

    Example:
        >>> print(markdown_text("algorithm._target_, ~1~"))
        algorithm.\_target\_, \~1\~
    """
    for special in "\\|*_~`[]":
        text = text.replace(special, f"\\{special}")
    return html.escape(text, quote=False)


# ------------------------------------------------------------------------------------------------------------ results


def result_table(groups: Sequence[Group], *, is_brief: bool = False, catalogue: Catalogue = CATALOGUE) -> Table:
    """Return the mean, standard deviation and n of every figure.

    Args:
        groups: All groups; those without a finished run are left out.
        is_brief: Whether only what is compared is shown.
        catalogue: The catalogue that says what the figures are.
    """
    groups = [group for group in groups if group.runs]
    asked = _compared(groups) if is_brief else _all_figures(catalogue)
    columns = [metric for metric in asked if any(group.figures(*metric.path) for group in groups)]
    columns = [metric for metric in columns if not _says_nothing_new(metric, groups)]
    rows = []
    for group in groups:
        n = len(group.runs)
        figures = (_figure(summarise(group.figures(*metric.path).values()), metric, n=n) for metric in columns)
        seconds = summarise(group.figures("seconds").values())
        rows.append((group.name, str(n), *figures, NONE if seconds is None else duration(seconds.mean)))
    selections = dict.fromkeys(group.example.settings.get("checkpoint.selection", "?") for group in groups)
    return Table(
        "Accuracy and pseudo-labels at the end of the runs",
        ("Setting", "n", *(metric.in_row for metric in columns), "Time"),
        tuple(rows),
        "Mean ± standard deviation over n seeds (n \N{MINUS SIGN} 1 in the denominator) in percentage points; one seed "
        f"has no deviation. Only finished runs count. Tested weights: checkpoint.selection={', '.join(selections)}.",
    )


def _says_nothing_new(metric: Metric, groups: Sequence[Group]) -> bool:
    """Say whether a mean over classes is about the accuracy over all images everywhere, as it is of balanced sets."""
    other = of_all_images(metric)
    if other is None:
        return False
    pairs = [(group.figures(*metric.path), group.figures(*other.path)) for group in groups]
    return all(
        abs(share - images.get(seed, share)) < SAME
        for of_classes, images in pairs
        for seed, share in of_classes.items()
    )


def _share(summary: Summary | None, *, n: int | None = None) -> str:
    """Return a summary of shares as text, with n unless it is the one that the row begins with."""
    if summary is None:
        return NONE
    std = "" if summary.std is None else f"{SPACE}±{SPACE}{100 * summary.std:.1f}"
    return f"{percent(summary.mean)}{std}{'' if summary.n == n else f' (n {summary.n})'}"


def _figure(summary: Summary | None, metric: Metric, *, n: int) -> str:
    if summary is None or metric.kind.is_share:
        return _share(summary, n=n)
    return _value(summary, n=n)


def _all_figures(catalogue: Catalogue) -> list[Metric]:
    """Return all figures, those of the evaluations first: they are what a run is for."""
    metrics = catalogue.in_place(Place.TABLE)
    return sorted(metrics, key=lambda metric: FIRST.index(metric.path[0]) if metric.path[0] in FIRST else len(FIRST))


def _compared(groups: Sequence[Group]) -> tuple[Metric, ...]:
    """Return the accuracies of the test set, or of the validation images without one; first those that are reported."""
    has_test = any(group.figures(*TEST_ACCURACY_EMA.path) for group in groups)
    return (TEST_ACCURACY_EMA, TEST_ACCURACY) if has_test else (VAL_ACCURACY_EMA, VAL_ACCURACY)


def comparison_table(groups: Sequence[Group], baseline: Group) -> Table:
    """Return every setting against the baseline, paired by seed.

    Args:
        groups: All groups.
        baseline: The one of them that the others are compared with.
    """
    others = [group for group in groups if group.runs and group is not baseline]
    rows = []
    for metric in _compared(groups):
        for group in others:
            found = compare(group.figures(*metric.path), baseline.figures(*metric.path))
            rows.append((group.name, metric.in_row, *_comparison(found)))
    return Table(
        f"Difference to {baseline.name}, paired by seed",
        ("Setting", "Figure", "Difference", f"95{SPACE}% interval", "Better in", "Pairs"),
        tuple(rows),
        "Mean of the differences in percentage points, with its confidence interval by Student's t distribution. "
        "Few seeds make wide intervals, and many settings make some difference look large by chance. "
        f"{_like_with_like(others, baseline)}",
        headings=2,
    )


def _comparison(found: Comparison | None) -> tuple[str, ...]:
    if found is None:
        return (NONE, NONE, NONE, "n 0")
    interval = "none of one pair"
    if found.interval is not None:
        interval = " to ".join(_points(end) for end in found.interval)
    ties = f", equal in {found.ties}" if found.ties else ""
    return (_points(found.difference), interval, f"{found.wins} of {found.n}{ties}", f"n {found.n}")


def _points(share: float) -> str:
    return percent(share, sign=True).rstrip("%").rstrip()


def _like_with_like(others: Sequence[Group], baseline: Group) -> str:
    """Return whether the runs of a pair learned from the same labelled images."""
    its = {baseline.draw_of(run): run.labelled for run in baseline.runs}
    drawn = [(group.draw_of(run), run.labelled) for group in others for run in group.runs]
    pairs = [(labelled, its[draw]) for draw, labelled in drawn if draw in its]
    if any(ours and theirs and ours != theirs for ours, theirs in pairs):
        return "Careful: some pairs have different labelled images."
    if pairs and all(ours and theirs for ours, theirs in pairs):
        return "The two runs of a pair have the same labelled images."
    return "Whether the two runs of a pair have the same labelled images is not known."


def seed_table(groups: Sequence[Group]) -> Table:
    """Return the first compared figure of every run.

    Args:
        groups: All groups.
    """
    metric = _compared(groups)[0]
    figures = {group.name: group.figures(*metric.path) for group in groups if group.runs}
    seeds = sorted({seed for by_seed in figures.values() for seed in by_seed})
    rows = tuple(
        (group, *(percent(by_seed[seed]) if seed in by_seed else NONE for seed in seeds))
        for group, by_seed in figures.items()
    )
    return Table(f"{metric.in_row}, by seed", ("Setting", *(f"seed {seed}" for seed in seeds)), rows)


# ----------------------------------------------------------------------------------------------------------- settings


def difference_table(groups: Sequence[Group]) -> Table:
    """Return the settings that are not the same everywhere.

    Args:
        groups: All groups.
    """
    rows = [(name, *(group.example.settings.get(name, NONE) for group in groups)) for name in differing(groups)]
    return Table(
        "Settings that differ",
        ("Setting", *(group.name for group in groups)),
        tuple(rows),
        f"{NONE}: the setting has no such part. What says which draw, where, how fast or how often, but not what is "
        "trained, makes no setting of its own.",
        is_numeric=False,
    )


def shared_table(groups: Sequence[Group]) -> Table:
    """Return the settings that are the same everywhere.

    Args:
        groups: The groups, at least one.
    """
    settings = [run.shown_settings for group in groups for run in (*group.runs, *group.unfinished)]
    other = set(identity.differing(settings)) | set(identity.keys_of(identity.Kind.OWN))
    rows = tuple((name, value) for name, value in settings[0].items() if name not in other)
    return Table("Settings of all runs", ("Setting", "Value"), rows, is_numeric=False)


def plan_table(groups: Sequence[Group]) -> Table:
    """Return the run plans, of the first run of each setting.

    Args:
        groups: All groups.
    """
    plans = [group.example.plan for group in groups]
    names = dict.fromkeys(name for plan in plans for name in plan)
    rows = tuple((name, *(plan.get(name, NONE) for plan in plans)) for name in names)
    header = ("", *(group.name for group in groups))
    return Table("Plan of the first run of each setting", header, rows, is_numeric=False)


def version_table(runs: Sequence[Run]) -> Table:
    """Return the versions that the runs were made with.

    Args:
        runs: All runs.
    """
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        versions = run.results.get("versions")
        for package, version in versions.items() if isinstance(versions, dict) else ():
            counts.setdefault(printable(package), Counter())[printable(version)] += 1
    rows = tuple(
        (package, ", ".join(f"{version} ({_runs(count)})" for version, count in found.most_common()))
        for package, found in counts.items()
    )
    return Table("Versions", ("Package", "Version"), rows, is_numeric=False)


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def run_table(runs: Sequence[Run], groups: Sequence[Group]) -> Table:
    """Return every run, with what is wrong.

    Args:
        runs: All runs.
        groups: The groups that are made of them.
    """
    names = {id(run): group.name for group in groups for run in (*group.runs, *group.unfinished)}
    metric = _compared(groups)[0]
    rows = []
    for run in runs:
        share, steps = run.figure(*metric.path), run.figure("steps")
        rows.append(
            (
                run.name,
                names.get(id(run), NONE),
                NONE if run.seed is None else str(run.seed),
                run.state.kind,
                f"{run.last_step if steps is None else steps:.0f}",
                NONE if share is None else percent(share),
                "; ".join(run.problems) or "nothing wrong",
            )
        )
    header = ("Directory", "Setting", "Seed", "State", "Steps", metric.in_row, "What is wrong")
    return Table("All run directories", header, tuple(rows), is_numeric=False)


# ------------------------------------------------------------------------------------------------------------ classes


def class_metric_table(groups: Sequence[Group], family: Metric) -> Table:
    """Return the last values of a metric that there is for each class.

    Args:
        groups: All groups.
        family: The family of the metrics.
    """
    found: dict[str, dict[str, Summary]] = {}
    for group in groups:
        names = dict.fromkeys(name for run in group.shown for name in run.curves)
        for name in names:
            part = family.part_of(name)
            summary = summarise(run.curves[name].values[-1] for run in group.shown if name in run.curves)
            if part is not None and summary is not None:
                found.setdefault(part, {})[group.name] = summary
    shown = [group.name for group in groups if any(group.name in by_group for by_group in found.values())]
    order = sorted(found, key=lambda name: min(summary.mean for summary in found[name].values()))
    note = ""
    if len(order) > ALL_CLASSES:
        half = ALL_CLASSES // 2
        note = f"The {half} lowest and the {half} highest of {len(order)} classes."
        order[half:-half] = []
    else:
        order = list(found)
    rows = tuple((printable(name), *(_value(found[name].get(group)) for group in shown)) for name in order)
    return Table(family.title.replace("*", family.part), (family.part.capitalize(), *shown), rows, note)


def _value(summary: Summary | None, *, n: int | None = None) -> str:
    """Return a summary as text, with n unless it is the one that the row begins with."""
    if summary is None:
        return NONE
    std = "" if summary.std is None else f"{SPACE}±{SPACE}{number(summary.std, digits=2)}"
    return f"{number(summary.mean)}{std}{'' if summary.n == n else f' (n {summary.n})'}"


def confusion_of(group: Group) -> list[Run]:
    """Return the finished runs with a confusion matrix over the same classes.

    Args:
        group: The group of one setting.
    """
    runs = [run for run in group.runs if run.confusion is not None]
    return [run for run in runs if run.classes == runs[0].classes]


def worst_table(groups: Sequence[Group]) -> Table:
    """Return the classes that are recognised least.

    Args:
        groups: The groups with confusion matrices.
    """
    recalls = {group.name: _recalls(confusion_of(group)) for group in groups}
    worst: dict[str, float] = {}
    for by_class in recalls.values():
        for name in sorted(by_class, key=lambda name: by_class[name][0].mean)[:WORST]:
            worst[name] = min(worst.get(name, 1.0), by_class[name][0].mean)
    rows = []
    for name in sorted(worst, key=lambda name: worst[name]):
        cells = []
        for by_class in recalls.values():
            summary, taken_for = by_class.get(name, (None, ""))
            cells.append(f"{_share(summary)}{taken_for}")
        rows.append((name, *cells))
    return Table(
        "The worst classes: how many of their test images are recognised",
        ("Class", *recalls),
        tuple(rows),
        f"The {WORST} worst classes of each setting. Recall with the EMA weights, mean ± standard deviation over "
        "seeds, and what they are most often taken for.",
        is_numeric=False,
    )


def _recalls(runs: Sequence[Run]) -> dict[str, tuple[Summary, str]]:
    """Compute each class's recall over the runs, and what it is most often taken for."""
    matrices = [run.confusion for run in runs if run.confusion is not None]
    if not matrices:
        return {}
    classes = runs[0].classes
    mean = np.mean(matrices, axis=0)
    found = {}
    for number_of, name in enumerate(classes):
        shares = [
            matrix[number_of, number_of] / matrix[number_of].sum() for matrix in matrices if matrix[number_of].sum()
        ]
        summary = summarise(shares)
        if summary is not None:
            found[name] = (summary, _taken_for(mean[number_of], number_of, classes))
    return found


def _taken_for(row: NDArray[np.float64], label: int, classes: Sequence[str]) -> str:
    others = row.copy()
    others[label] = 0
    other = int(others.argmax())
    return f"; {percent(others[other] / row.sum())} taken for {classes[other]}" if others[other] else ""


def mistake_table(run: Run) -> Table:
    """Return the most confident mistakes of a run.

    Args:
        run: A run with predictions.
    """

    def name(number_of: int) -> str:
        return run.classes[number_of] if number_of < len(run.classes) else str(number_of)

    rows = tuple(
        (
            printable(mistake.path) or str(mistake.index),
            name(mistake.label),
            name(mistake.prediction),
            percent(mistake.confidence),
        )
        for mistake in run.mistakes[:SHOWN_MISTAKES]
    )
    header = ("Test image", "True class", "Predicted class", "Confidence")
    return Table(f"Most confident mistakes of {run.name} (seed {run.seed}, n 1)", header, rows, is_numeric=False)
