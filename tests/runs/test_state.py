"""Finished, running, stopped or empty: by results, lock and the times of files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from tests.report.made_runs import make_run

from layermatch.runs.directory import lock_run_dir
from layermatch.runs.layout import LOCK
from layermatch.runs.state import judge

HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


@contextmanager
def another_process_holds(lock: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", is_finished=False)


def age(run_dir: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in run_dir.iterdir():
        os.utime(path, (then, then))


def test_the_lock_is_that_of_a_run(tmp_path: Path) -> None:
    with lock_run_dir(tmp_path / "run"):
        assert judge(tmp_path / "run").kind == "running"
    assert judge(tmp_path / "run").kind == "empty"


def test_results_make_a_run_finished(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert judge(path).kind == "finished"
    age(path, 3600)
    state = judge(path)
    assert state.kind == "finished"
    assert state.quiet == pytest.approx(3600, abs=60)


def test_a_run_that_ended_early_took_its_lock_away(unfinished: Path) -> None:
    assert judge(unfinished).kind == "stopped"


def test_a_lock_that_cannot_be_asked_leaves_the_times_of_the_files(unfinished: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (unfinished / LOCK).symlink_to(tmp_path / "elsewhere")  # which a lock refuses to follow
    age(unfinished, 50)
    assert judge(unfinished).kind == "running"
    age(unfinished, 61)
    assert judge(unfinished).kind == "stopped"


def test_a_held_lock_tells_of_a_run_that_is_quiet_for_long(unfinished: Path) -> None:
    with another_process_holds(unfinished / LOCK) as process:
        age(unfinished, 3600)
        assert judge(unfinished).kind == "running"
        process.kill()
        process.wait()
        assert judge(unfinished).kind == "stopped"  # a killed run leaves the file, not the lock
    assert (unfinished / LOCK).exists()
    with FileLock(unfinished / LOCK, blocking=False):
        pass  # asking has left it free


def test_a_finished_run_that_goes_on_is_running(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    age(path, 100)
    with another_process_holds(path / LOCK):
        assert judge(path).kind == "finished"  # its last seconds: figures are drawn
        (path / "config.yaml").touch()
        assert judge(path).kind == "running"
    age(path, 50)
    (path / "config.yaml").touch()
    os.utime(path / "config.yaml", (time.time() - 40,) * 2)
    assert judge(path).kind == "finished"  # it was killed; the results of before stay


def test_a_folder_without_a_run_is_empty(tmp_path: Path) -> None:
    assert judge(tmp_path).kind == "empty"
    with another_process_holds(tmp_path / LOCK):
        assert judge(tmp_path).kind == "running"  # it starts: its data are read
    assert judge(tmp_path).kind == "empty"
    assert judge(tmp_path / "missing").kind == "empty"
