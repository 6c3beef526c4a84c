"""The page: every table and chart of the runs, in one file that needs no other."""

from __future__ import annotations

import base64
import itertools
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from layermatch import __version__
from layermatch.catalogue import VALUE, Catalogue, Metric, Section
from layermatch.metrics import CATALOGUE, LAYER_COSINE
from layermatch.report.charts import (
    LABEL_LENGTH,
    LineChart,
    Matrix,
    NamedCurve,
    Styled,
    draw_lines,
    draw_matrix,
    images,
)
from layermatch.report.curves import MAX_POINTS, mean_curve
from layermatch.report.groups import Group
from layermatch.report.runs import Run
from layermatch.report.tables import (
    Table,
    class_metric_table,
    comparison_table,
    confusion_of,
    difference_table,
    markdown,
    markdown_text,
    mistake_table,
    plan_table,
    result_table,
    run_table,
    seed_table,
    shared_table,
    version_table,
    worst_table,
)
from layermatch.text import printable

__all__ = ["GENERATOR", "Answer", "render_html", "render_markdown"]

#: The mark of our files, so that nothing else is overwritten.
GENERATOR = "layermatch.report"

#: More lines than this in a chart cannot be told apart; another chart takes the rest.
MAX_LINES = 8

#: More classes than this make no matrix that can be seen.
MAX_CLASSES = 200

#: Largest confusions in the description of a matrix.
DESCRIBED = 5


@dataclass(frozen=True)
class Entry(Styled):
    """A line of the legend.

    Args:
        name: The name of the setting.
        label: The label at the end of its curves.
        style: The number of its colour and dash pattern.
        remark: The number of runs, and whether they are finished.
    """

    name: str
    label: str
    style: int
    remark: str


@dataclass(frozen=True)
class ClassView:
    """What a setting makes of the classes.

    Args:
        name: The name of the setting.
        matrix: The mean confusion matrix; None where there is none, or too many classes for one.
        mistakes: The most confident mistakes of a run; None where they are not known.
        picture: The picture of mistakes, as a data URI; empty where there is none.
        picture_text: What the picture shows.
    """

    name: str
    matrix: Matrix | None
    mistakes: Table | None
    picture: str
    picture_text: str


def render_markdown(runs: Sequence[Run], groups: Sequence[Group], baseline: Group | None) -> str:
    """Return the tables as Markdown.

    Args:
        runs: All runs.
        groups: The groups that are made of them.
        baseline: The baseline of the comparison; None if no run is finished.
    """
    tables = []
    if baseline is not None:
        tables.append(result_table(groups, catalogue=catalogue_of(runs)))
        if len([group for group in groups if group.runs]) > 1:
            tables.append(comparison_table(groups, baseline))
        tables.append(seed_table(groups))
    if len(groups) > 1:
        tables.append(difference_table(groups))
    tables += [run_table(runs, groups), version_table(runs)]
    parts = [f"<!-- {GENERATOR} -->\n# {markdown_text(_title(groups))}", _summary(runs, groups)]
    return "\n\n".join([*parts, *(markdown(table) for table in tables if table.rows)]) + "\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was asked of the runs and what they say, in front of everything else on the page.

    Args:
        title: The question.
        verdicts: The answer in words, a line each.
        notes: What to be careful about, a line each.
        tables: The figures that the answer rests on.
    """

    title: str
    verdicts: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[Table]


def render_html(
    runs: Sequence[Run],
    groups: Sequence[Group],
    baseline: Group | None,
    *,
    written: datetime,
    answer: Answer | None = None,
) -> str:
    """Return the page.

    Args:
        runs: All runs.
        groups: The groups that are made of them.
        baseline: The baseline of the comparison; None if no run is finished.
        written: The time at which the page is written.
        answer: What a study says of the runs; None where nothing was asked.
    """
    environment = Environment(
        loader=PackageLoader("layermatch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["parts"] = _parts
    catalogue, names = catalogue_of(runs), _curve_names(groups)
    crowds = _crowds(catalogue, names)
    metrics = catalogue.plus(crowds).arrange(names)
    finished = [group for group in groups if group.runs]
    with_confusion = [group for group in groups if confusion_of(group)]
    numbers = itertools.count(1)
    return environment.get_template("page.html").render(
        generator=GENERATOR,
        version=__version__,
        title=_title(groups) if answer is None else answer.title,
        answer=answer,
        written=written.strftime("%Y-%m-%d %H:%M"),
        summary=_summary(runs, groups),
        left_out=sum(not any(run is counted for group in groups for counted in group.runs) for run in runs),
        results=result_table(groups, catalogue=catalogue) if finished else None,
        comparison=comparison_table(groups, baseline) if baseline is not None and len(finished) > 1 else None,
        by_seed=seed_table(groups) if finished else None,
        differences=difference_table(groups) if len(groups) > 1 else None,
        shared=shared_table(groups) if groups else None,
        legend=_legend(groups),
        curve_notes=_curve_notes(groups),
        accuracy=_charts(groups, metrics, Section.ACCURACY),
        losses=_charts(groups, metrics, Section.LOSSES),
        quality=_charts(groups, metrics, Section.QUALITY),
        per_class=[class_metric_table(groups, family) for family in catalogue.in_section(Section.CLASSES)],
        layers=_layer_charts(groups, catalogue.in_section(Section.LAYERS)),
        others=_charts(groups, metrics, Section.OTHER),
        crowds=[class_metric_table(groups, family) for family in crowds],
        worst=worst_table(with_confusion) if with_confusion else None,
        classes=_class_views(groups),
        runs=run_table(runs, groups),
        plans=plan_table(groups),
        versions=version_table(runs),
        new_id=lambda: f"part-{next(numbers)}",
    )


def _parts(text: str) -> list[str]:
    """Return the parts of a long path or dotted name, after each of which it may go on in the next line."""
    return re.split(r"(?<=[./=])(?=[^\d\s])", text)


def _title(groups: Sequence[Group]) -> str:
    # The name tells no setting from another, so the runs of a group may have several.
    shown = (run for group in groups for run in [*group.runs, *group.unfinished])
    names = dict.fromkeys(run.shown_settings.get("name", "?") for run in shown)
    return f"Runs of {', '.join(names)}" if names else "Runs"


def _summary(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    counted = sum(len(group.runs) for group in groups)
    seeds = {run.seed for group in groups for run in group.runs}
    return (
        f"{_plural(counted, 'finished run')} of {_plural(len([g for g in groups if g.runs]), 'setting')}, "
        f"{_plural(len(seeds), 'seed')}; {_plural(len(runs), 'run directory', 'run directories')} in all."
    )


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


# ------------------------------------------------------------------------------------------------------------- curves


def _legend(groups: Sequence[Group]) -> list[Entry]:
    shown = [group for group in groups if any(run.curves for run in group.shown)]
    fits = all(len(group.name) <= LABEL_LENGTH for group in shown)
    entries = []
    for style, group in enumerate(shown):
        label = group.name if fits else _letter(style)
        with_curves = sum(bool(run.curves) for run in group.shown)
        remark = f"n {with_curves}{'' if group.runs else ', not finished'}"
        entries.append(Entry(group.name, label, style, remark))
    return entries


def _letter(place: int) -> str:
    return string.ascii_uppercase[place] if place < 26 else str(place + 1)


def _curve_notes(groups: Sequence[Group]) -> list[str]:
    notes = ["Lines are means over seeds, bands are ± one standard deviation; n is at each name."]
    lengths = [len(curve.steps) for group in groups for run in group.shown for curve in run.curves.values()]
    merged = -(-max(lengths, default=0) // MAX_POINTS)
    if merged > 1:
        notes.append(f"Up to {merged} neighbouring log lines are averaged into one point.")
    unfinished = [group.name for group in groups if not group.runs]
    if unfinished:
        notes.append(f"Drawn from unfinished runs, for want of finished ones: {', '.join(unfinished)}.")
    return notes


def catalogue_of(runs: Sequence[Run]) -> Catalogue:
    """Return the catalogue, with what the methods of the runs add to it."""
    return CATALOGUE.plus(metric for run in runs for metric in run.own_metrics)


def _crowds(catalogue: Catalogue, names: Sequence[str]) -> list[Metric]:
    """Make families of what nobody described, where it is too much for a chart each: one for every class, perhaps."""
    unknown = [name for name in names if not catalogue.has(name)]
    counts = Counter(name.rpartition("/")[0] for name in unknown)
    crowds = [parent for parent, count in counts.items() if count > MAX_LINES and parent and "*" not in parent]
    return [
        Metric(f"{parent}/*", VALUE, f"{parent}, at the last log line", part="class", section=Section.NONE)
        for parent in crowds
    ]


def _curve_names(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for run in group.shown for name in run.curves))


def _charts(groups: Sequence[Group], metrics: Sequence[Metric], section: Section) -> list[LineChart]:
    styles = {entry.name: entry for entry in _legend(groups)}
    charts = []
    for metric in metrics:
        if metric.section != section:
            continue
        curves = []
        for group in groups:
            mean = mean_curve([run.curves[metric.name] for run in group.shown if metric.name in run.curves])
            if mean is not None:
                entry = styles[group.name]
                curves.append(NamedCurve(entry.name, entry.label, entry.style, mean))
        charts += _in_parts(printable(metric.title), curves, is_share=metric.kind.is_share)
    return charts


def _in_parts(title: str, curves: Sequence[NamedCurve], *, is_share: bool) -> list[LineChart]:
    parts = [curves[start : start + MAX_LINES] for start in range(0, len(curves), MAX_LINES)]
    names = [
        title if len(parts) == 1 else f"{title}, part {place} of {len(parts)}" for place in range(1, len(parts) + 1)
    ]
    drawn = (draw_lines(name, part, is_share=is_share) for name, part in zip(names, parts, strict=True))
    return [chart for chart in drawn if chart is not None]


def _layer_charts(groups: Sequence[Group], families: Sequence[Metric]) -> list[LineChart]:
    """Return the curves of all layers, for each setting; a layer looks the same in all charts."""
    charts = []
    for family in families:
        # As they were logged, which is from input to output.
        names = [name for name in _curve_names(groups) if family.part_of(name) is not None]
        for group in groups:
            curves = []
            for style, name in enumerate(names):
                mean = mean_curve([run.curves[name] for run in group.shown if name in run.curves])
                layer = printable(family.part_of(name))
                if mean is not None:
                    curves.append(NamedCurve(layer, _fit(layer), style, mean))
            title = group.name if family == LAYER_COSINE else f"{group.name}: {family.title.replace('*', family.part)}"
            charts += _in_parts(title, curves, is_share=family.kind.is_share)
    return charts


def _fit(name: str) -> str:
    """Return the end of a long name: layers differ there."""
    return name if len(name) <= LABEL_LENGTH else f"…{name[1 - LABEL_LENGTH :]}"


# ------------------------------------------------------------------------------------------------------------ classes


def _class_views(groups: Sequence[Group]) -> list[ClassView]:
    views = []
    for group in groups:
        with_picture = next((run for run in group.runs if run.picture is not None), None)
        with_mistakes = with_picture or next((run for run in group.runs if run.mistakes), None)
        view = ClassView(
            name=group.name,
            matrix=_matrix(group),
            mistakes=mistake_table(with_mistakes) if with_mistakes is not None and with_mistakes.mistakes else None,
            picture=_data_uri(with_picture.picture if with_picture is not None else None),
            picture_text=_picture_text(with_picture),
        )
        if view.matrix or view.mistakes or view.picture:
            views.append(view)
    return views


def _matrix(group: Group) -> Matrix | None:
    runs = confusion_of(group)
    if not runs or len(runs[0].classes) > MAX_CLASSES:
        return None
    counts = np.mean([run.confusion for run in runs if run.confusion is not None], axis=0)
    classes = runs[0].classes
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:DESCRIBED]
    largest = [divmod(int(place), len(classes)) for place in order if off.flat[place] > 0]
    texts = [f"{classes[row]} taken for {classes[column]} ({images(off[row, column])})" for row, column in largest]
    title = f"Confusion matrix of {group.name}: mean counts of test images, n {len(runs)}"
    return draw_matrix(
        title, counts, classes, description=f"Most frequent mistakes, mean counts: {'; '.join(texts) or 'none'}."
    )


def _data_uri(picture: bytes | None) -> str:
    return "" if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _picture_text(run: Run | None) -> str:
    if run is None:
        return ""
    return f"The most confident mistakes on test images of {run.name}, seed {run.seed}, with true and predicted class"
