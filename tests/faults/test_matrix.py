"""A run that is stopped and resumed is the run in one go: every algorithm, every kind of stop."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli.conftest import cli, in_empty_folder
from tests.faults.runs import finish, newest_step, same_training, start, wait_for

__all__ = ["cli", "in_empty_folder"]  # fixtures

Cli = Callable[..., None]

SMALL = (
    "data.batch_size=8", "data.mu=2", "data.num_val=20", "trainer.log_every=2", "eval_every=3", "schedule=constant",
    "checkpoint.every_n_steps=1", "checkpoint.keep=1000", "trainer.precision=32-true", "trainer.accelerator=cpu",
    "model.width=1",
)  # fmt: skip
PSEUDO = (*SMALL, "pseudo_labels.threshold=0.15")
ALGORITHMS = {
    "supervised": ("algorithm=supervised", *SMALL),
    "fixmatch": ("algorithm=fixmatch", *PSEUDO),
    "layermatch": PSEUDO,
    "layermatch, ema_outputs": (*PSEUDO, "layerwise.avg_clustering=ema_outputs"),
    "layermatch, ema_centroids": (*PSEUDO, "layerwise.avg_clustering=ema_centroids"),
    "layermatch, ema_teacher": (*PSEUDO, "layerwise.avg_clustering=ema_teacher"),
    "layermatch, decoupled": (*PSEUDO, "layerwise.decoupled=true"),
    "layermatch, conflict": (*PSEUDO, "layerwise.grad_relu=conflict"),
    "layermatch, gradient_scale": (*PSEUDO, "algorithm.gradient_scale={extractor.groups.0: 0.5}"),
    "layermatch, shared": (*PSEUDO, "algorithm.forward=shared"),
    "layermatch, split": (*PSEUDO, "algorithm.forward=split"),
    "layermatch, skip_masked": (*PSEUDO, "algorithm.forward=split", "algorithm.skip_masked=true"),
    "layermatch, 2 accumulated": (*PSEUDO, "algorithm.accumulate=2"),
    "layermatch, shared, share 0, 2 accumulated": (
        *PSEUDO, "algorithm.forward=shared", "algorithm.weak_share=0", "algorithm.accumulate=2",
    ),
}  # fmt: skip
#: Of the run in one go; the stopped ones stop long before.
STEPS = 40
TABLE = "resumed training equals training in one go, to the bit"


def rows_between(run_dir: Path, first: int, last: int) -> list[dict[str, str]]:
    """The rows of training, without the clock's and the machine's quantities and without those of the results."""
    with (run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if first < int(row["step"]) <= last]
    rows = [{n: v for n, v in row.items() if v and n.split("/")[0] not in {"time", "memory"}} for row in rows]
    during = [row for row in rows if "test/accuracy" not in row and ("val/accuracy" not in row or is_evaluated(row))]
    return [row for number, row in enumerate(during) if row not in during[:number]]


def is_evaluated(row: dict[str, str]) -> bool:
    return int(row["step"]) % 3 == 0


def send_to_this_process(number: int, sign: Path) -> threading.Thread:
    """Send this process a signal once a file is there."""

    def wait() -> None:
        deadline = time.monotonic() + 300
        while not sign.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@dataclass
class Matrix:
    """One row: a run in one go, and runs that are stopped and resumed, which must end as it passed that step."""

    cli: Cli
    folder: Path
    algorithm: str
    record: Callable[..., None]

    def run(self, run_dir: str, max_steps: int, *more: str) -> None:
        self.cli(f"run_dir={run_dir}", f"trainer.max_steps={max_steps}", *ALGORITHMS[self.algorithm], *more)

    def compare(self, run_dir: str, step: int, *, since: int, column: str) -> None:
        whole, out = self.folder / "whole", self.folder / run_dir
        name = f"checkpoints/step-{step:07d}.ckpt"
        equal = rows_between(whole, since, step) == rows_between(out, since, step)
        equal = equal and same_training(whole / name, out / name)
        self.record(TABLE, row=self.algorithm, column=column, equal=equal)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stopped_and_resumed(algorithm: str, cli: Cli, in_empty_folder: Path, cell: Callable[..., None]) -> None:
    matrix = Matrix(cli, in_empty_folder, algorithm, cell)
    matrix.run("whole", STEPS)
    for step in (1, 3, 4):  # an evaluation is due at 3, a log line at 4
        matrix.run(f"from{step}", 8, f"ckpt_path=whole/checkpoints/step-{step:07d}.ckpt")
        matrix.compare(f"from{step}", 8, since=step, column=f"at step {step}")
    matrix.run("out", 5)
    matrix.run("out", 7, "ckpt_path=last")
    matrix.compare("out", 7, since=0, column="max_steps")
    for name in ("SIGTERM", "SIGUSR1"):
        thread = send_to_this_process(signal.Signals[name], in_empty_folder / name / "checkpoints/step-0000004.ckpt")
        with pytest.raises(SystemExit) as status:
            matrix.run(name, 100000)
        thread.join()
        assert status.value.code == 75
        resume_and_compare(matrix, name)
    process = start(in_empty_folder, "run_dir=SIGKILL", "trainer.max_steps=100000", *ALGORITHMS[algorithm])
    wait_for((in_empty_folder / "SIGKILL/checkpoints/step-0000004.ckpt").exists, process)
    process.kill()
    finish(process)
    resume_and_compare(matrix, "SIGKILL")


def resume_and_compare(matrix: Matrix, run_dir: str) -> None:
    steps = newest_step(matrix.folder / run_dir) + 3
    assert steps <= STEPS
    matrix.run(run_dir, steps, "ckpt_path=last")
    matrix.compare(run_dir, steps, since=0, column=run_dir)
