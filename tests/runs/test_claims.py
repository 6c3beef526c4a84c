"""A job of a sweep belongs to one process, whichever machine it is on, and to another one once that has died."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from layermatch.errors import UserError
from layermatch.processes import birth_of
from layermatch.runs import claims
from layermatch.runs.claims import Claim, ended_in, holder_of, take
from layermatch.runs.layout import CLAIMS, find_runs


def written(sweep: Path, job: str, number: int, **changed: object) -> Path:
    """A claim as another process has left it."""
    folder = sweep / CLAIMS
    folder.mkdir(exist_ok=True)
    path = folder / f"{job}.{number:04d}.json"
    own = {"machine": "other", "place": "other boot", "pid": os.getpid(), "born": 0.0, "state": "running"}
    path.write_text(json.dumps(own | {"status": 0, "why": ""} | changed))
    return path


def ended(claim: Claim | None, state: str = "finished", **how: object) -> None:
    assert claim is not None
    claim.release(state, **how)


def test_a_job_is_one_processs(tmp_path: Path) -> None:
    claim = take(tmp_path / "0")
    assert take(tmp_path / "0") is None
    holder = holder_of(tmp_path / "0")
    assert holder is not None
    assert holder.is_at_work()
    assert str(holder) == f"process {os.getpid()} on {os.uname().nodename}"
    ended(take(tmp_path / "1"))  # another job is free
    ended(claim, "failed", status=2, why="no reason")
    holder = holder_of(tmp_path / "0")
    assert holder is not None
    assert (holder.state, holder.status, holder.why, holder.is_at_work()) == ("failed", 2, "no reason", False)
    ended(take(tmp_path / "0"))
    assert sorted(path.name for path in (tmp_path / CLAIMS).iterdir()) == [
        "0.0001.json", "0.0002.json", "1.0001.json"
    ]  # fmt: skip
    assert find_runs(tmp_path) == []  # what reads runs sees none of it


def test_of_many_that_ask_at_once_one_has_it(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def ask(_: int) -> Claim | None:
        together.wait()
        return take(tmp_path / "0")

    for attempt in range(1, 6):
        with ThreadPoolExecutor(8) as threads:
            (claim,) = [claim for claim in threads.map(ask, range(8)) if claim is not None]
        assert claim.holder.number == attempt
        claim.release("stopped")


def test_the_job_of_a_process_that_has_died_is_taken_over(tmp_path: Path) -> None:
    died = os.fork()
    if not died:
        os._exit(0 if take(tmp_path / "0") is not None else 1)  # as kill -9: nothing is released
    assert os.waitpid(died, 0)[1] == 0
    holder = holder_of(tmp_path / "0")
    assert holder is not None
    assert (holder.state, holder.pid, holder.is_at_work()) == ("running", died, False)
    claim = take(tmp_path / "0")
    assert claim is not None
    assert claim.holder.number == 2
    ended(claim)


def test_another_process_that_has_the_number_of_the_dead_one_is_not_it(tmp_path: Path) -> None:
    mine = claims._place()
    for job, born in (("0", time.time() - 1e6), ("1", birth_of(1)), ("2", f"{birth_of(os.getpid())}x")):
        path = written(tmp_path, job, 1, place=mine, born=born)
        ended(take(tmp_path / job))
        assert path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system notes when a process began")
@pytest.mark.parametrize("step", [-2.0, 2.0, 3600.0])
def test_a_clock_that_is_set_changes_no_process(step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time at which Linux says that it started moves with the clock, and so do the times of its processes."""
    claim = take(tmp_path / "0")
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + step)
    assert psutil.Process().create_time() > 0
    assert take(tmp_path / "0") is None
    ended(claim)


def test_a_claim_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    """It has seconds since the epoch."""
    written(tmp_path, "0", 1, place=claims._place(), born=psutil.Process().create_time())
    assert take(tmp_path / "0") is None


@pytest.mark.parametrize("content", ["whole", "cut off"])
def test_a_process_of_another_machine_lives_as_long_as_it_shows_life(content: str, tmp_path: Path) -> None:
    path = written(tmp_path, "0", 7)
    if content == "cut off":
        path.write_text("")
    assert take(tmp_path / "0") is None
    silent = time.time() - claims.SILENT - 5
    os.utime(path, (silent, silent))
    claim = take(tmp_path / "0")
    assert claim is not None
    assert claim.holder.number == 8
    ended(claim)


def test_a_process_shows_life_and_hears_that_its_job_was_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    lost = threading.Event()
    claim = take(tmp_path / "0", lose=lost.set)
    assert claim is not None
    long_ago = time.time() - 1000
    os.utime(claim.holder.path, (long_ago, long_ago))
    deadline = time.monotonic() + 30
    while claim.holder.path.stat().st_mtime < long_ago + 500:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not lost.is_set()
    written(tmp_path, "0", 2)
    assert lost.wait(30)
    claim.release("stopped")
    holder = holder_of(tmp_path / "0")
    assert holder is not None
    assert (holder.number, holder.machine) == (2, "other")


def test_jobs_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for job in ("10", "9", "a.b", "9"):
        ended(take(tmp_path / job))
    assert [path.name for path in ended_in(tmp_path)] == ["9", "10", "a.b"]


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / CLAIMS).write_text("of the user")
    with pytest.raises(UserError, match="cannot be written to"):
        take(tmp_path / "0")
