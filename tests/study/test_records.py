"""What a run directory holds of the run that a study wants there."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.made_runs import make_run, settings_of
from tests.study.test_tables import study_of

from layermatch.runs.directory import lock_run_dir
from layermatch.study.code_version import CodeVersion, code_version
from layermatch.study.collecting import Collector
from layermatch.study.design import Cell, Setting
from layermatch.study.preparing import last_line
from layermatch.study.processes import Started
from layermatch.study.records import Record, State, look, read_record, write_record
from layermatch.study.running import _Job

CODE = CodeVersion("0.1.0", "abc", False, "1").plain()


def cell_of(folder: Path, *overrides: str, seed: int = 0) -> Cell:
    raw = settings_of("trainer.max_steps=30", *overrides, seed=seed)
    return Cell(Setting("fixmatch", overrides), 10, seed, overrides, raw, folder)


def test_a_finished_run_is_finished_and_not_read_twice(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    assert look(cell).state is State.MISSING
    make_run(cell.run_dir, seed=0, accuracy=0.75)
    status = look(cell)
    assert status.state is State.FINISHED
    assert status.results["test"]["accuracy_ema"] == 0.75
    assert read_record(cell).checked
    assert look(cell) == status
    # What was checked is these files and these settings, and no others.
    assert look(cell_of(tmp_path, "optimizer.lr=0.1")).state is State.OTHER


@pytest.mark.parametrize(
    ("made", "seed", "why"),
    [
        (["optimizer.lr=0.1"], 0, "optimizer.lr=0.1, not 0.03"),
        (["algorithm=supervised"], 0, "algorithm._target_=layermatch.methods.Supervised, not "),
        ([], 1, "seed 1, not 0"),
    ],
)
def test_a_run_of_other_settings_is_told_by_what_differs(made: list[str], seed: int, why: str, tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, *made, seed=seed)
    status = look(cell)
    assert status.state is State.OTHER
    assert status.why.startswith(why)
    assert not status.results


def test_where_and_how_fast_a_run_is_makes_no_other_run(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, "logger=csv", "checkpoint.keep=5", "trainer.log_every=10", seed=0)
    assert look(cell).state is State.FINISHED


def test_a_shorter_run_is_another_one(tmp_path: Path) -> None:
    """Its learning rate fell sooner, whatever it goes on to."""
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, seed=0, steps=[10, 20])
    assert look(cell).why == "trainer.max_steps=20, not 30"


def test_a_run_that_is_at_it_is_left_alone(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, seed=0, is_finished=False)
    with lock_run_dir(cell.run_dir):
        assert look(cell).state is State.RUNNING
    assert look(cell).state is State.MISSING


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"code": 3}', "{" * 5000])
def test_a_broken_record_is_none(text: str, tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    write_record(cell, Record(failure="x"))
    assert read_record(cell).failure == "x"
    (tmp_path / "records" / f"{cell.slug}.json").write_text(text)
    assert read_record(cell) == Record()


def test_a_record_keeps_every_code_that_a_run_went_on_with() -> None:
    other = CODE | {"sources": "2"}
    first = Record().begun(code=CODE, data="feed", machine="one", goes_on=False)
    assert first.in_one_go
    again = first.begun(code=CODE, data="feed", machine="one", goes_on=True)
    assert (again.code, again.data, again.in_one_go) == ((CODE,), ("feed",), False)
    assert again.begun(code=other, data="beef", machine="two", goes_on=True).code == (CODE, other)
    assert again.begun(code=other, data="beef", machine="two", goes_on=True).machine == ("one", "two")
    assert again.begun(code=other, data="beef", machine="two", goes_on=False) == Record(
        (other,), ("beef",), machine=("two",)
    )  # from its start


def test_the_code_is_known_by_its_sources() -> None:
    code = code_version()
    assert code == code_version()
    assert len(code.sources) == 10
    assert CodeVersion.of_plain(json.loads(json.dumps(code.plain()))) == code


def test_a_reason_is_one_line() -> None:
    assert last_line("error: a\nerror: no such file\nbye\n") == "no such file"
    assert last_line("Traceback\n  x\nKeyError: 3\n\n") == "KeyError: 3"
    assert last_line("\x1b[2Jnothing") == "\N{REPLACEMENT CHARACTER}[2Jnothing"
    assert last_line("") == "it said nothing"


def test_a_job_knows_what_its_processor_did(tmp_path: Path) -> None:
    """Its own seconds and those of the processes that it waited for, beside those of the attempts before."""
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); sys.exit(3)"
    for before, least in ((0.0, 0.5), (100.0, 100.5), (None, None)):
        process = Started(["-c", script], log=tmp_path / "log", environment=os.environ)
        job = _Job(cell_of(tmp_path), process, ExitStack(), time.monotonic(), before)
        while process.poll() is None:
            time.sleep(0.05)
        assert process.poll() == 3
        if least is None:
            assert job.all_processor is None
        else:
            assert least <= job.all_processor < least + 30


def test_processor_seconds_of_an_attempt_that_nobody_saw_end_are_not_known(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    first = Record().begun(code=CODE, data="", machine="one", goes_on=False)
    assert first.processor is None
    write_record(cell, replace(first, processor=12.5))
    assert read_record(cell).processor == 12.5
    assert read_record(cell).machine == ("one",)
    assert read_record(cell).begun(code=CODE, data="", machine="one", goes_on=True).processor is None


def test_a_record_of_before_is_read(tmp_path: Path) -> None:
    cell = cell_of(tmp_path)
    write_record(cell, Record(code=(CODE,), failure="x"))
    path = tmp_path / "records" / f"{cell.slug}.json"
    fields = json.loads(path.read_text())
    del fields["machine"], fields["processor"]
    path.write_text(json.dumps(fields))
    assert read_record(cell) == Record(code=(CODE,), failure="x")


def test_what_a_process_used_is_told_though_its_run_was_seen_finished_before(tmp_path: Path) -> None:
    """A run writes its results before its process ends; another run that ends between has the tables written."""
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, seed=0, accuracy=0.75)
    study = study_of(settings=(cell.setting,), seeds=(0,))
    collector = Collector(study, [cell], left_out={}, command="made", study_dir=tmp_path)
    assert [finding.processor for finding in collector.found().findings] == [None]
    write_record(cell, replace(read_record(cell), processor=5.25))
    assert [finding.processor for finding in collector.found().findings] == [5.25]


def test_a_run_without_curves_is_in_the_table(tmp_path: Path) -> None:
    """With logger=none there is no metrics.csv, and a study that keeps curves goes on."""
    cell = cell_of(tmp_path)
    make_run(cell.run_dir, seed=0, accuracy=0.75)
    (cell.run_dir / "metrics.csv").unlink()
    study = study_of(settings=(cell.setting,), seeds=(0,), curves=("loss/*",))
    (finding,) = Collector(study, [cell], left_out={}, command="made", study_dir=tmp_path).found().findings
    assert finding.results["test"]["accuracy_ema"] == 0.75
    assert finding.curves == {}
