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
from layermatch.study.places import jobs_for
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


SAYS_ITS_GPU = """
import os, sys, time
from pathlib import Path
from layermatch.runs.directory import lock_run_dir
run_dir, others = Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
with lock_run_dir(run_dir):
    (run_dir / "gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    while not all((path / "gpu").exists() for path in others):
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        (["trainer.accelerator=gpu"], ["3", "4"], ["3", "4"]),
        (["trainer.accelerator=auto"], ["3", "4"], ["3", "4"]),
        (["trainer.accelerator=cpu"], ["3", "4"], ["none", "none"]),
        (["trainer=ddp", "trainer.devices=2"], ["4", "3", "2", "5"], ["2,5", "4,3"]),
        (["trainer=ddp", "trainer.devices=2"], ["3", "4"], ["none", "none"]),  # there is no choice
    ],
)
def test_runs_at_once_have_gpus_of_their_own(
    words: list[str], gpus: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cells = [
        Cell(Setting(name, ()), 10, 0, (), settings_of("trainer.max_steps=30", *words, seed=0), tmp_path)
        for name in "ab"
    ]
    paths = [str(cell.run_dir) for cell in cells]

    def command_of(cell: Cell, *, options: object = ()) -> list[str]:
        return ["-c", SAYS_ITS_GPU, str(cell.run_dir), *paths]

    monkeypatch.setattr(running, "command_of", command_of)
    prepared = Prepared({}, {}, "", gpus=gpus)
    runner = Runner(cells, jobs=2, code=lambda: CODE, prepared=prepared, say=lambda _: None)
    runner.run(cells, finished=0, seconds={}, after=lambda: None)
    assert sorted((cell.run_dir / "gpu").read_text() for cell in cells) == expected


@pytest.mark.parametrize(
    ("words", "gpus", "jobs"),
    [
        (["trainer.accelerator=gpu"], ["0"], 1),
        (["trainer.accelerator=auto"], ["0", "1", "2"], 3),
        (["trainer=ddp", "trainer.devices=2"], ["0", "1", "2", "3"], 2),
        (["trainer=ddp", "trainer.devices=4"], ["0", "1"], 1),  # which each run refuses
        (["trainer.accelerator=cpu"], ["0"], None),
        (["trainer.accelerator=auto"], [], None),
    ],
)
def test_as_many_runs_at_once_as_there_are_gpus_or_cores(
    words: list[str], gpus: list[str], jobs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 6}, raising=False)
    cell = Cell(Setting("a", ()), 10, 0, (), settings_of("trainer.max_steps=30", *words, seed=0), tmp_path)
    assert jobs_for([cell], gpus=gpus) == (jobs or 5)
