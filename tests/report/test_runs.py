"""Whatever is missing or broken in a run directory is said, and stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.report.made_runs import DIGITS, PLAN, make_run, rows_of, write_metrics

from layermatch.report.runs import Run, read_run
from layermatch.report.tables import mistake_table
from layermatch.runs.layout import LOCK


def text(name: str, content: str) -> Callable[[Path], None]:
    def write(run_dir: Path) -> None:
        (run_dir / name).write_text(content)

    return write


def remove(name: str) -> Callable[[Path], None]:
    return lambda run_dir: (run_dir / name).unlink()


def cut(name: str, end: int) -> Callable[[Path], None]:
    def write(run_dir: Path) -> None:
        (run_dir / name).write_bytes((run_dir / name).read_bytes()[:end])

    return write


def results(**changes: object) -> Callable[[Path], None]:
    def write(run_dir: Path) -> None:
        content = json.loads((run_dir / "results.json").read_text())
        (run_dir / "results.json").write_text(json.dumps(content | changes))

    return write


def config(**changes: object) -> Callable[[Path], None]:
    def write(run_dir: Path) -> None:
        content = yaml.safe_load((run_dir / "config.yaml").read_text())
        (run_dir / "config.yaml").write_text(yaml.safe_dump({**content, **changes}))

    return write


def test_a_whole_run_has_everything_and_no_problem(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", seed=7, accuracy=0.9))
    assert run.problems == []
    assert run.is_finished
    assert run.seed == 7
    assert run.figure("test", "accuracy_ema") == 0.9
    assert run.curves["val/accuracy_ema"].steps == [10, 20, 30]
    assert run.plan == PLAN
    assert run.labelled == {1, 2, 3}
    assert run.classes == DIGITS
    assert run.confusion is not None
    assert run.confusion[0].tolist() == [90.0, 10.0, *[0.0] * 8]
    assert [(mistake.index, mistake.confidence) for mistake in run.mistakes] == [(2, 0.95), (1, 0.8)]
    assert {mistake.path for mistake in run.mistakes} == {""}
    assert run.picture is not None
    assert "trainer.max_steps" in run.settings
    assert not {"seed", "run_dir", "logger._target_"} & run.settings.keys()


def test_mistakes_are_named_by_their_files(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    rows = "index,label,prediction,confidence,path\n4,1,0,0.8,test/cat/a.png\n5,0,1,0.7,test/dog/line\\break.png\n"
    (path / "predictions.csv").write_text(rows)
    table = mistake_table(read_run(path))
    assert [row[0] for row in table.rows] == ["test/cat/a.png", "test/dog/line\\break.png"]


BROKEN = {
    "no configuration": (remove("config.yaml"), "config.yaml is missing"),
    "configuration that is no YAML": (text("config.yaml", "a: [1, 2"), "config.yaml cannot be read"),
    "empty configuration": (text("config.yaml", ""), "config.yaml cannot be read: it holds no settings"),
    "configuration that is a list": (text("config.yaml", "- 1"), "config.yaml cannot be read: it holds no settings"),
    "configuration that is no text": (lambda p: (p / "config.yaml").write_bytes(b"\xff\xfe\x00a"), "config.yaml"),
    "many aliases": (text("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), "it holds an alias"),
    "deep YAML": (text("config.yaml", "[" * 5000), "config.yaml cannot be read"),
    "deep lists in YAML": (text("config.yaml", "- " * 50_000), "config.yaml cannot be read: it is nested too deeply"),
    "YAML that builds objects": (text("config.yaml", "a: !!python/object/apply:os.getcwd []"), "config.yaml cannot"),
    "no seed": (config(seed=None), "config.yaml gives no seed"),
    "seed that is none": (config(seed=True), "config.yaml gives no seed"),
    "results that are cut": (cut("results.json", 100), "results.json cannot be read"),
    "empty results": (text("results.json", ""), "results.json cannot be read"),
    "results that are a list": (text("results.json", "[1]"), "results.json cannot be read: it holds no results"),
    "deep JSON": (text("results.json", "[" * 200_000), "nested too deeply"),
    "confusion that is not square": (results(confusion=[[1, 2], [3]]), "confusion is no square table"),
    "confusion of words": (results(confusion=[["a"]]), "confusion is no square table"),
    "negative confusion": (results(confusion=[[-1]]), "confusion is no square table"),
    "no number of steps": (results(steps="many"), "results.json does not say how many steps"),
    "resumed and stopped": (results(steps=20), "the run went on, and not up to 30 yet"),
    "no metrics": (remove("metrics.csv"), "metrics.csv is missing"),
    "empty metrics": (text("metrics.csv", ""), "metrics.csv has no line"),
    "metrics of something else": (text("metrics.csv", "a,b\n1,2\n"), "metrics.csv cannot be read"),
    "metrics with a half line": (cut("metrics.csv", -20), "ends in the middle of a line"),
    "metrics that end early": (
        lambda p: (
            config(trainer={"log_every": 10})(p),
            (p / "metrics.csv").unlink(),
            write_metrics(p, rows_of(0.9, steps=(10, 20))),
        ),
        "metrics.csv ends at step 20, the run at 30",
    ),
    "NaN": (
        lambda p: ((p / "metrics.csv").unlink(), (p / "metrics.csv").write_text("a/b,step\n1,10\nnan,20\n1,30\n")),
        "a/b is no finite number from step 20 on",
    ),
    "split that is none": (text("split.json", "{}"), "split.json cannot be read: it lists no labelled images"),
    "picture that is none": (text("figures/mistakes.png", "GIF89a"), "figures/mistakes.png cannot be read"),
    "picture that is cut": (cut("figures/mistakes.png", -30), "figures/mistakes.png cannot be read"),
    "file that is a folder": (
        lambda p: ((p / "predictions.csv").unlink(), (p / "predictions.csv").mkdir()),
        "",
    ),
    "predictions of something else": (text("predictions.csv", "a,b\n1,2\n"), ""),
    "no plan": (remove("plan.json"), ""),
    "plan that is a list": (text("plan.json", "[]"), "plan.json cannot be read: it holds no plan"),
    "plan with numbers": (text("plan.json", '{"steps": 3}'), "plan.json cannot be read: it holds no plan"),
    "log that is no text": (lambda p: (p / "run.log").write_bytes(b"\xff\x00\x1b[2J\nPlan\n"), ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_said(tmp_path: Path, name: str) -> None:
    break_it, said = BROKEN[name]
    path = make_run(tmp_path / "run")
    break_it(path)
    run = read_run(path)
    if said:
        assert any(said in problem for problem in run.problems), run.problems
    else:
        assert run.problems == []
    assert all("\n" not in problem for problem in run.problems)


@pytest.mark.parametrize("name", ["no configuration", "no seed", "results that are cut", "resumed and stopped"])
def test_a_run_whose_figures_are_not_sure_is_not_finished(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path / "run")
    BROKEN[name][0](path)
    assert not read_run(path).is_finished


def test_an_unfinished_run_says_how_far_it_came(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", is_finished=False)
    config(trainer={"max_steps": 50})(path)
    run = read_run(path)
    assert run.problems == ["stopped before its end: at step 30 of 50"]
    assert not run.is_finished
    (path / LOCK).touch()
    assert read_run(path).problems == ["still running: at step 30 of 50"]


@pytest.mark.parametrize(("end", "is_whole"), [(1220, True), (1249, True), (1250, False)])
def test_curves_may_end_less_than_a_log_interval_before_the_run(tmp_path: Path, end: int, *, is_whole: bool) -> None:
    path = make_run(tmp_path / "run", steps=(1150, 1200))
    config(trainer={"max_steps": end, "log_every": 50})(path)
    results(steps=end)(path)
    run = read_run(path)
    assert run.problems == ([] if is_whole else ["metrics.csv ends at step 1200, the run at 1250: no curves of it"])
    assert bool(run.curves) is is_whole


def test_an_empty_folder_is_listed(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert run.problems == ["there is nothing of a run in it"]
    assert run.state.kind == "empty"


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    results(classes=["one"])(path)
    assert read_run(path).classes == DIGITS


def test_a_figure_that_is_none_is_none() -> None:
    run = Run(Path("run"), state=read_run(Path("/nonexistent")).state)
    run.results = {"test": {"accuracy": float("nan"), "accuracy_ema": "high"}, "val": None, "steps": True}
    assert run.figure("test", "accuracy") is None
    assert run.figure("test", "accuracy_ema") is None
    assert run.figure("val", "accuracy") is None
    assert run.figure("steps") is None
