"""The command line: what it refuses, what it writes, and a report about real runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import pytest
from tests.report.html_page import Page
from tests.report.made_runs import make_run

from layermatch import run
from layermatch.report.__main__ import main

Report = Callable[..., str]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """``python -m layermatch.report ARGS`` in an empty folder; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> str:
        capsys.readouterr()
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


MISTAKES = {
    "nothing": ([], "no run is given: give RUN_DIR or --multirun DIR"),
    "no such folder": (["missing"], "missing is no folder"),
    "a file": (["file.txt"], "file.txt is no folder"),
    "sweep without runs": (["--multirun", "nothing"], "--multirun nothing holds no run directory"),
    "no such sweep": (["--multirun", "missing"], "missing is no folder"),
    "unknown option": (["run", "--bseline", "x"], "unrecognized arguments"),
    "unknown baseline": (["run", "--baseline", "fix"], "--baseline 'fix' is no setting with a finished run: choose"),
    "no page": (["run", "--out", "report.pdf"], "--out report.pdf is no HTML page"),
    "no folder for it": (["run", "--out", "missing/r.html"], "there is no folder missing"),
    "somebody else's page": (["run", "--out", "mine.html"], "mine.html exists and is no report"),
    "somebody else's Markdown": (["run", "--out", "notes.html"], "notes.md exists and is no report"),
    "a folder in its place": (["run", "--out", "folder.html"], "folder.html exists and is no report"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    name: str, report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "folder.html").mkdir()
    for file in ("file.txt", "mine.html", "notes.md"):
        (tmp_path / file).write_text("mine")
    before = sorted(tmp_path.iterdir())
    arguments, said = MISTAKES[name]
    with pytest.raises(SystemExit) as ended:
        report(*arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_a_page_and_a_markdown_file_and_again(report: Report, tmp_path: Path) -> None:
    make_run(tmp_path / "a", "algorithm=fixmatch")
    make_run(tmp_path / "b", accuracy=0.95)
    shown = report("a", "b", "a/../a", "--baseline", "layermatch")
    assert "written to report.html and report.md" in shown
    assert "Difference to layermatch, paired by seed" in shown
    text = Page((tmp_path / "report.html").read_text()).text
    assert "2 run directories in all" in text
    assert re.search(
        r"\| fixmatch \| Test, EMA weights \| .5\.0 \| none of one pair \| 0 of 1", (tmp_path / "report.md").read_text()
    )
    report("a")  # our own files are overwritten
    assert "1 run directory in all" in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_the_first_run_given_is_the_baseline(report: Report, tmp_path: Path) -> None:
    make_run(tmp_path / "m" / "0", "algorithm=fixmatch")
    make_run(tmp_path / "m" / "1")
    assert "Difference to layermatch, paired by seed" in report("m/1", "--multirun", "m")


def test_nothing_finished_is_no_mistake(report: Report, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is nothing of a run in it" in report("empty", "--out", "here.htm")
    assert (tmp_path / "here.htm").exists()
    assert (tmp_path / "here.md").exists()


def test_a_name_does_not_reach_the_terminal_as_a_command(report: Report, tmp_path: Path) -> None:
    make_run(tmp_path / "evil\x1b[31m[bold]", is_finished=False)
    shown = report("--multirun", ".")
    assert "\x1b" not in shown
    assert "[bold]" in shown


@pytest.mark.slow
def test_a_report_about_real_runs(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [
        "trainer.max_steps=4",
        "trainer.log_every=2",
        "eval_every=2",
        "data.num_val=50",
        "data.batch_size=8",
        "data.mu=2",
    ]
    arguments = ["-m", "algorithm=supervised,fixmatch", "seed=0,1", *small, "run_dir=sweep"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["layermatch.run", *arguments])
        run.main()
    found = [json.loads((tmp_path / "sweep" / str(job) / "results.json").read_text()) for job in range(4)]
    accuracies = [100 * results["test"]["accuracy_ema"] for results in found]
    report("--multirun", "sweep")
    page = Page((tmp_path / "report.html").read_text())
    assert page.faults == []
    text = page.text.replace("\xa0", " ")
    for name, pair in (("supervised", accuracies[:2]), ("fixmatch", accuracies[2:])):
        assert f"{name} 2 {mean(pair):.1f} % ± {stdev(pair):.1f}" in text
    assert "4 finished runs of 2 settings, 2 seeds; 4 run directories in all." in text
    assert text.count("nothing wrong") == 4
    assert "not counted" not in text
    assert "The two runs of a pair have the same labelled images." in text
    for shown in ("Validation accuracy, EMA weights", "Loss of the extractor", "mask rate", "pseudo_labels.threshold"):
        assert shown in text
    assert "8x8, 1 channel, 10 classes" in text  # of the plan
    assert f"torch {found[0]['versions']['torch']} (4 runs)" in text
