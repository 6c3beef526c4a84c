"""Runs in processes of their own, to be hurt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tests.processes import Process

from layermatch.checkpoints import newest_checkpoint, read_checkpoint

#: Digits with small batches and a checkpoint every 10 steps.
SMALL = (
    "data.batch_size=8", "data.mu=2", "data.num_val=20", "trainer.log_every=2", "eval_every=30", "schedule=constant",
    "checkpoint.every_n_steps=10", "pseudo_labels.threshold=0.15", "trainer.precision=32-true",
    "trainer.accelerator=cpu",
)  # fmt: skip


def start(folder: Path, *arguments: str, pictures: bool = False) -> Process:
    """``python -m layermatch.run ARGUMENTS`` in ``folder``; its processes are a group of their own."""
    return Process(
        [sys.executable, "-m", "layermatch.run", *arguments], cwd=folder, start_new_session=True, pictures=pictures
    )


def finish(process: Process | subprocess.Popen[str], *, timeout: float = 600) -> tuple[int, str]:
    """Status and standard error of a process, once it has ended."""
    try:
        _, text = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, text = process.communicate()
        raise AssertionError(f"it hung; its standard error was:\n{text}") from None
    return process.wait(), "\n".join(line for line in text.splitlines() if not line.startswith("[W"))


def wait_for(condition: Callable[[], bool], process: Process, *, timeout: float = 550) -> None:
    """Wait until something is there, while the process lives."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.written()[1]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def newest_step(run_dir: Path) -> int:
    """The step of the newest valid checkpoint; -1 without any checkpoint."""
    if not list((run_dir / "checkpoints").glob("*.ckpt")):
        return -1
    return int(read_checkpoint(newest_checkpoint(run_dir))["global_step"])


def newest_name(run_dir: Path) -> int:
    """The step of the newest checkpoint by its name: cheap enough to be asked all the time."""
    return max((int(path.stem[5:]) for path in (run_dir / "checkpoints").glob("step-*.ckpt")), default=-1)


def same_training(first: Path, second: Path) -> bool:
    """Whether two checkpoints hold the same to the bit: weights, averages, centres, policy, optimizer, meters."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    keys = ("state_dict", "optimizer_states", "lines", "guard", "evaluations", "global_step")
    return all(_same(one[key], two[key]) for key in keys)


def _same(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(_same(a, b) for a, b in zip(one, two, strict=True))
    return one == two
