"""``metrics.csv`` keeps every row, whatever the names in it are."""

from __future__ import annotations

from pathlib import Path

import pytest

from layermatch import loggers
from layermatch.figures import read_metrics
from layermatch.loggers import MetricsCsv
from layermatch.runs.metrics_file import MetricsFile

#: Each of these is a line break to some reader, or has a meaning in CSV.
NAMES = {
    "line separator": "a\u2028b", "paragraph separator": "a\u2029b", "next line": "a\x85b", "vertical tab": "a\x0bb",
    "form feed": "a\x0cb", "file separator": "a\x1cb", "group separator": "a\x1db", "record separator": "a\x1eb",
    "line feed": "a\nb", "carriage return": "a\rb", "both": "a\r\nb", "quote": 'a"b', "comma": "a,b", "NUL": "a\x00b",
    "umlaut": "ä", "blank": " ", "nothing": "", "mark": "\ufeff", "formula": "=1+1",
}  # fmt: skip


def log(logger: MetricsCsv, steps: range, **more: float) -> None:
    for step in steps:
        logger.log_metrics({"loss": 1.0, **more}, step=step)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_row_is_lost_when_a_column_is_added_or_the_run_goes_on(name: str, tmp_path: Path) -> None:
    column = f"pseudo_labels/per_class_counts/{name}"
    log(MetricsCsv(tmp_path), range(1, 5), **{column: 2.0})
    logger = MetricsCsv(tmp_path, first_step=4)
    log(logger, range(5, 7), **{column: 2.0})
    log(logger, range(7, 9), **{column: 2.0, "val": 0.5})
    read = MetricsFile(logger.path)
    read.poll()
    assert read.bad_lines == 0
    assert {name: curve.steps for name, curve in read.curves.items()} == {
        "loss": [*range(1, 9)], column: [*range(1, 9)], "val": [7, 8]
    }  # fmt: skip
    assert {name: steps.tolist() for name, (steps, _) in read_metrics(logger.path).items()} == {
        name: curve.steps for name, curve in read.curves.items()
    }


@pytest.mark.parametrize("name", ["loss", "a\u2028b", "a\nb", 'a\r"b'])
@pytest.mark.parametrize("rest", ["3", "3,1", "3,1.0,2.0"])
def test_a_row_that_a_kill_cut_short_is_left_out(rest: str, name: str, tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path)
    log(logger, range(1, 3), **{name: 1.0, "more": 1.0})
    with logger.path.open("a") as file:
        file.write(rest)
    log(MetricsCsv(tmp_path, first_step=9), range(4, 5), **{name: 1.0, "more": 1.0})
    assert read_metrics(logger.path)[name][0].tolist() == [1, 2, 4]


def test_a_name_that_is_no_text_is_written_as_an_escape(tmp_path: Path) -> None:
    """A column of a Lightning module of one's own; the names of classes are text already."""
    logger = MetricsCsv(tmp_path)
    log(logger, range(1, 3), **{"caf\udce9": 1.0})
    assert logger.path.read_bytes().splitlines()[0] == rb"step,loss,caf\udce9"


def test_tensorboard_has_no_step_twice_where_a_run_goes_on(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first_step, steps in ((0, (50, 100, 150)), (100, (150, 200))):
        _, logger = loggers.tensorboard(run_dir=tmp_path, first_step=first_step)
        for step in steps:
            logger.log_metrics({"loss": float(first_step)}, step=step)
        logger.finalize("success")
    shown = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == [(50, 0), (100, 0), (150, 100), (200, 100)]
