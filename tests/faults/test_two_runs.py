"""Two runs, one directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.runs import SMALL, finish, newest_name, newest_step, start, wait_for

pytestmark = pytest.mark.slow


def test_a_second_run_in_a_directory_in_use(tmp_path: Path, fault: Callable[..., None]) -> None:
    first = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL)
    wait_for(lambda: newest_name(tmp_path / "out") >= 10, first)
    second = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL, "ckpt_path=last")
    status, text = finish(second)
    assert (status, text) == (
        2, "error: run_dir=out is in use by another run: wait until that ends, or give another run_dir"
    )  # fmt: skip
    assert first.poll() is None
    first.terminate()
    assert finish(first)[0] == 75
    fault("a second run resumes into a directory in use (status 2)", tried=1, survived=1, lost="nothing")


def test_two_runs_that_start_together(tmp_path: Path, fault: Callable[..., None]) -> None:
    runs = [start(tmp_path, "run_dir=out", "trainer.max_steps=30", *SMALL) for _ in range(2)]
    ends = sorted(finish(run) for run in runs)
    assert [status for status, _ in ends] == [0, 2], ends
    assert ends[1][1].startswith("error: run_dir=out ")
    assert newest_step(tmp_path / "out") == 30
    fault("two runs start in one directory at once", tried=1, survived=1, lost="nothing")
