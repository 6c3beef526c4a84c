"""What becomes of runs that a study starts: killed ones, those that cannot be started, and those that come too late."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.made_runs import settings_of

from layermatch.runs.state import is_locked
from layermatch.study import running
from layermatch.study.code_version import CodeVersion
from layermatch.study.design import Cell, Setting
from layermatch.study.preparing import Prepared
from layermatch.study.running import Outcome, Runner

CODE = CodeVersion("0.1.0", "abc", False, "1")

#: A run that locks its directory and writes there, as each does, and then does what its setting says.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from layermatch.runs.directory import lock_run_dir
run_dir, what = Path(sys.argv[1]), sys.argv[2]
with lock_run_dir(run_dir):
    (run_dir / "metrics.csv").write_text("step")
    if what == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.fixture
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def command_of(cell: Cell, *, options: object = ()) -> list[str]:
        return ["-c", PROGRAM, str(cell.run_dir), cell.setting.name]

    monkeypatch.setattr(running, "command_of", command_of)


def cell_of(folder: Path, name: str) -> Cell:
    return Cell(Setting(name, ()), 10, 0, (), settings_of("trainer.max_steps=30", seed=0), folder)


def run_all(*cells: Cell, code: Callable[[], CodeVersion] = lambda: CODE, jobs: int = 1) -> tuple[Outcome, list[str]]:
    said: list[str] = []
    runner = Runner(cells, jobs=jobs, code=code, prepared=Prepared({}, "", {}), say=said.append)
    outcome = runner.run(list(cells), finished=0, seconds={}, after=lambda: None)
    return outcome, said


@pytest.mark.usefixtures("_programs")
def test_a_run_that_is_killed_has_failed_and_is_not_started_again(tmp_path: Path) -> None:
    cell = cell_of(tmp_path, "is killed")
    outcome, said = run_all(cell)
    assert said == ["starts: is killed, 10 labels, seed 0", "failed: is killed, 10 labels, seed 0: killed by SIGKILL"]
    assert [why for _, why in outcome.failed] == ["killed by SIGKILL"]
    assert (cell.run_dir / ".lock").exists()
    assert is_locked(cell.run_dir) is False


@pytest.mark.usefixtures("_programs")
def test_a_run_that_cannot_be_claimed_does_not_end_the_others(tmp_path: Path) -> None:
    (tmp_path / ".locks").write_text("no folder")
    outcome, _ = run_all(cell_of(tmp_path, "is killed"), cell_of(tmp_path, "is killed, too"))
    assert [why for _, why in outcome.failed] == ["cannot be started: File exists"] * 2


@pytest.mark.usefixtures("_programs")
def test_a_long_name_is_a_name(tmp_path: Path) -> None:
    names = ["is killed", "ä" * 200 + "1", "ä" * 200 + "2"]
    assert len({cell_of(tmp_path, name).run_dir for name in names}) == 3
    outcome, _ = run_all(cell_of(tmp_path, "is killed"))
    assert len(outcome.failed) == 1
    assert all(len(cell_of(tmp_path, name).slug.encode()) < 200 for name in names)


@pytest.mark.usefixtures("_programs")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives no signals to others")
def test_a_signal_while_a_run_is_started_is_given_to_it(tmp_path: Path) -> None:
    def code() -> CodeVersion:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        return CODE

    begun = time.monotonic()
    outcome, _ = run_all(cell_of(tmp_path, "takes a minute"), code=code)
    assert outcome.stopped_by == "SIGTERM"
    assert time.monotonic() - begun < 30
