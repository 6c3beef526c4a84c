"""benchmarks/every_method.py: what is not as it should be is found, and what is good is called so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import every_method
from benchmarks.every_method import Found
from tests.processes import run

TABLE = "│ EMA weights  │ 12.5000% │\n│ live weights │ 14.1667% │\n"
OTHERWISE = """
from pathlib import Path
from benchmarks.every_method import goes_on, start
given = ("algorithm=fixmatch", "trainer.max_steps=2")
start("run", "run_dir=whole", "checkpoint.every_n_steps=1", *given)
print(goes_on(Path("whole"), Path("other"), (*given, "optimizer.lr=0.5"), steps=2))
"""
SCRIPT = Path(every_method.__file__)
SEARCHED = {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
RESULTS = {"test": {"accuracy": 0.141667, "accuracy_ema": 0.125}}


def every(*words: str) -> subprocess.CompletedProcess[str]:
    """The script, in a process of its own, with its commands as far as a method has some."""
    return run([sys.executable, str(SCRIPT), *words], ranks=1 + 4)


@pytest.mark.slow
def test_a_method_runs_goes_on_and_evaluates() -> None:
    """One with state of its own."""
    done = every("--only", "freematch", "--steps", "4")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "match" in line]
    assert rows[0][:2] + rows[0][3:5] == ["freematch", "4", "yes", "yes"]
    assert "1 of 1 methods are good" in done.stdout
    assert done.stderr.splitlines() == ["freematch: good"]


@pytest.mark.slow
def test_a_run_that_fails_is_said() -> None:
    done = every("--only", "fixmatch", "--steps", "2", "algorithm.ema_decay=7")
    assert done.returncode == 1, done.stderr
    printed = done.stdout
    assert "0 of 1 methods are good" in printed
    assert "| fixmatch | 2 |  | NO | NO |  |" in printed
    assert "fixmatch: layermatch.run ended with status 2: error: " in printed.replace("\\", "")


@pytest.mark.slow
def test_a_run_that_goes_on_otherwise_is_found(tmp_path: Path) -> None:
    """From a checkpoint whose weights are not those of the middle."""
    done = run([sys.executable, "-c", OTHERWISE], cwd=tmp_path, env=os.environ | SEARCHED, ranks=1 + 2)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_contents_are_the_same_to_the_bit() -> None:
    def content(value: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, object]:
        return {"weights": [torch.tensor([0.0, value], dtype=dtype)], "step": 3}

    assert every_method.is_same(content(), content())
    assert not every_method.is_same(content(), content(1 + 1e-7))
    assert not every_method.is_same(content(), content(dtype=torch.float64))
    assert not every_method.is_same(content(), content() | {"step": 4})
    assert not every_method.is_same(content(), content() | {"more": None})
    assert not every_method.is_same([1, 2], [1])


def test_an_evaluation_is_compared_with_the_run() -> None:
    assert every_method.is_evaluation_of(RESULTS, f"checkpoint: x\n{TABLE}")
    assert not every_method.is_evaluation_of(RESULTS, TABLE.replace("14.1667", "14.4444"))
    assert not every_method.is_evaluation_of(RESULTS, "")


@pytest.mark.parametrize(
    ("found", "is_good"),
    [
        (Found("x", 2, is_resumed=True, is_evaluated=True), True),
        (Found("x", 1, is_resumed=None, is_evaluated=True), True),
        (Found("x", 2, is_resumed=False, is_evaluated=True), False),
        (Found("x", 2, is_resumed=True, is_evaluated=False), False),
        (Found("x", 2, is_resumed=True, is_evaluated=True, error="it ended"), False),
    ],
)
def test_all_of_it_has_to_be_good(found: Found, is_good: bool) -> None:
    assert found.is_good is is_good
    assert every_method.table_of([found]).caption == f"{int(is_good)} of 1 methods are good"


@pytest.mark.parametrize(
    ("words", "legal"),
    [
        (["--steps", "3"], "--steps 3: give an even number"),
        (["--steps", "0"], "--steps 0: give an even number"),
        (["--only", "fixmatch,nonesuch"], "--only nonesuch: choose of abc, "),
        (["--jobs", "0"], "--jobs 0: give at least 1"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], legal: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        every_method.main(words)
    assert legal in capsys.readouterr().err.splitlines()[-1]
