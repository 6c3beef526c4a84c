"""What a study found: figures of each setting over its seeds, and differences paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
from layermatch.runs.metrics_file import Curve
from layermatch.runs.reading import finite_number
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import Cell, Draw, Setting, Study, fingerprint_of

__all__ = ["BESIDE", "LEVEL", "Finding", "Found", "Row", "ordered", "rows_of"]

#: What is shown beside what is compared, where there is any: of the last step, but for the median.
BESIDE = (
    TEST_ACCURACY_EMA, TEST_MACRO_EMA, VAL_ACCURACY_EMA, VAL_MACRO_EMA, VAL_MEDIAN_EMA, MASK_RATE, ACCURACY_ACCEPTED,
)  # fmt: skip

#: How sure the intervals are.
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
        selections = {finding.cell.selection for finding in self.findings} or {cell.selection for cell in self.cells}
        weights = {
            "last": "the weights of the last step",
            "best_val": "the weights with the best validation accuracy",
        }
        chosen = " or ".join(sorted(weights.get(selection, str(selection)) for selection in selections))
        metric = self.study.metric
        of_median = " of the last 20 evaluations on validation images" if metric == VAL_MEDIAN_EMA else ""
        where = "validation" if metric.is_of_validation else "test"
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
        changed_from: The name of the setting whose difference this one's is compared with; empty for none.
        change: The difference of the two differences, paired; None without a draw that all four have.
    """

    setting: str
    num_labels: int | None
    by_draw: Mapping[Draw, float]
    figures: Mapping[Metric, Summary]
    seconds: Summary | None
    processor: Summary | None
    reference: str
    comparison: Comparison | None
    changed_from: str = ""
    change: Comparison | None = None

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
        comparison = compare(values[setting.name], values[reference.name], level=LEVEL, overlap=study.overlap)
    return Row(
        setting=setting.name,
        num_labels=number if isinstance(number, int) else None,
        by_draw=values[setting.name],
        figures={metric: summary for metric, summary in summaries.items() if summary is not None},
        seconds=summarise(finding.seconds for finding in findings if finding.seconds is not None),
        processor=summarise(finding.processor for finding in findings if finding.processor is not None),
        reference="" if reference is None else reference.name,
        comparison=comparison,
        **_change(study, setting, values),
    )


def _change(study: Study, setting: Setting, values: Mapping[str, dict[Draw, float]]) -> dict[str, Any]:
    other = study.changed_from(setting)
    if other is None:
        return {}
    here, there = (_differences(study, each, values) for each in (setting, other))
    return {"changed_from": other.name, "change": compare(here, there, level=LEVEL, overlap=study.overlap)}


def _differences(study: Study, setting: Setting, values: Mapping[str, dict[Draw, float]]) -> dict[Draw, float]:
    """Return what a setting has more than its reference, by draw."""
    reference = study.reference_of(setting)
    others = {} if reference is None else values[reference.name]
    return {draw: value - others[draw] for draw, value in values[setting.name].items() if draw in others}


def _by_draw(findings: Sequence[Finding], metric: Metric) -> dict[Draw, float]:
    found = {finding.cell.draw: finding.figure(metric) for finding in findings}
    return {draw: value for draw in ordered(found) if (value := found[draw]) is not None}


def ordered(draws: Iterable[Draw]) -> list[Draw]:
    """Return draws by seed, and then by fold.

    Args:
        draws: Seeds, or pairs of a seed and a fold.
    """
    return sorted(draws, key=lambda draw: draw if isinstance(draw, tuple) else (draw, 0))
