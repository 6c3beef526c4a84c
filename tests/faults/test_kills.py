"""Killed at any moment, a run goes on from a whole checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.runs import SMALL, finish, newest_name, newest_step, same_training, start, wait_for

from layermatch.checkpoints import newest_checkpoint, read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def whole_run(tmp_path: Path) -> Callable[..., Path]:
    """The same run in one go."""

    def run(steps: int, *options: str) -> Path:
        status, text = finish(start(tmp_path, "run_dir=whole", f"trainer.max_steps={steps}", *SMALL, *options))
        assert status == 0, text
        return tmp_path / f"whole/checkpoints/step-{steps:07d}.ckpt"

    return run


def resume_and_compare(folder: Path, whole_run: Callable[..., Path], *options: str) -> bool:
    """Train a bit further than the kills came, and compare with a run that nobody killed."""
    steps = newest_step(folder / "out") + 15
    arguments = ("run_dir=out", f"trainer.max_steps={steps}", *SMALL, *options, "ckpt_path=last")
    status, text = finish(start(folder, *arguments))
    assert status == 0, text
    assert not list((folder / "out").rglob("*.tmp"))
    return same_training(folder / f"out/checkpoints/step-{steps:07d}.ckpt", whole_run(steps, *options))


def test_the_process_at_random_moments(
    tmp_path: Path, kills: int, fault: Callable[..., None], whole_run: Callable[..., Path]
) -> None:
    moments = random.Random(0)
    out, survived = tmp_path / "out", 0
    for _ in range(kills):
        before = newest_step(out)
        resume = ["ckpt_path=last"] if before > 0 else []
        process = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL, *resume)
        wait_for(lambda before=before: newest_name(out) > before, process)
        time.sleep(moments.uniform(0, 0.8))
        process.kill()
        finish(process)
        survived += newest_step(out) > before
    assert resume_and_compare(tmp_path, whole_run)
    fault("kill -9 of the process at random moments", tried=kills, survived=survived, lost="< 10 steps (one interval)")


def test_the_process_while_it_writes_a_checkpoint(
    tmp_path: Path, kills: int, fault: Callable[..., None], whole_run: Callable[..., Path]
) -> None:
    out, survived, in_the_middle = tmp_path / "out", 0, 0
    options = ("checkpoint.every_n_steps=1",)
    for _ in range(kills):
        before = newest_step(out)
        resume = ["ckpt_path=last"] if before > 0 else []
        process = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL, *options, *resume)
        wait_for(lambda before=before: newest_name(out) > before, process)
        wait_for(lambda: bool(list((out / "checkpoints").glob("*.tmp"))), process)
        process.kill()
        finish(process)
        in_the_middle += bool(list((out / "checkpoints").glob("*.tmp")))
        survived += newest_step(out) > before
    assert in_the_middle, "no kill met a checkpoint in the middle"
    assert resume_and_compare(tmp_path, whole_run, *options)
    name = f"kill -9 while a checkpoint is written ({in_the_middle} left half a file)"
    fault(name, tried=kills, survived=survived, lost="< 1 step")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_asked_to_stop(name: str, tmp_path: Path, fault: Callable[..., None], whole_run: Callable[..., Path]) -> None:
    process = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL)
    wait_for(lambda: newest_name(tmp_path / "out") >= 10, process)
    process.send_signal(signal.Signals[name])
    status, text = finish(process)
    assert status == 75
    step = newest_step(tmp_path / "out")
    assert text.splitlines() == [
        f"stopped by {name} at step {step}, checkpoint out/checkpoints/step-{step:07d}.ckpt: go on with ckpt_path=last"
    ]
    assert not (tmp_path / "out/.lock").exists()
    assert resume_and_compare(tmp_path, whole_run)
    fault(f"{name} (status 75)", tried=1, survived=1, lost="nothing")


def test_stopped_between_the_last_step_and_the_results(tmp_path: Path, fault: Callable[..., None]) -> None:
    process = start(tmp_path, "run_dir=out", "trainer.max_steps=20", *SMALL)
    wait_for(lambda: newest_name(tmp_path / "out") == 20, process)
    process.kill()
    finish(process)
    has_results = (tmp_path / "out/results.json").exists()
    status, text = finish(start(tmp_path, "run_dir=out", "trainer.max_steps=20", *SMALL, "ckpt_path=last"))
    assert (status, (tmp_path / "out/results.json").exists()) == ((2, True) if has_results else (0, True)), text
    fault("kill -9 between the last step and the results", tried=1, survived=1, lost="nothing")


@pytest.mark.parametrize("killed_rank", [0, 1])
def test_one_of_two_processes(killed_rank: int, tmp_path: Path, kills: int, fault: Callable[..., None]) -> None:
    moments = random.Random(killed_rank)
    out, survived = tmp_path / "out", 0
    options = ("trainer.devices=2", "trainer.strategy=ddp")
    tries = max(kills // 2, 1)
    for _ in range(tries):
        before = newest_step(out)
        resume = ["ckpt_path=last"] if before > 0 else []
        process = start(tmp_path, "run_dir=out", "trainer.max_steps=100000", *SMALL, *options, *resume)
        wait_for(lambda before=before: newest_name(out) > before, process)
        time.sleep(moments.uniform(0, 0.5))
        other = children(process.pid)[0]
        os.kill(process.pid if killed_rank == 0 else other, signal.SIGKILL)
        _, text = finish(process)
        wait_for_end(other)
        lines = text.splitlines()
        if killed_rank == 1:
            assert len(lines) == 1, text
            assert "another process of this run has ended" in lines[0]
            assert lines[0].endswith("go on with ckpt_path=last")
        survived += newest_step(out) > before
    steps = newest_step(out) + 5
    final = ("run_dir=out", f"trainer.max_steps={steps}", *SMALL, *options, "ckpt_path=last")
    status, text = finish(start(tmp_path, *final))
    assert status == 0, text
    assert read_checkpoint(newest_checkpoint(out))["global_step"] == steps
    name = f"kill -9 of process {killed_rank} of 2 at random moments"
    fault(name, tried=tries, survived=survived, lost="< 10 steps (one interval)")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_end(pid: int, *, timeout: float = 300) -> None:
    """The other process ends by itself, not as an orphan that holds a GPU."""
    deadline = time.monotonic() + timeout
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.05)
