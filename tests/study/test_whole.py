"""Real studies of tiny runs: stopped hard and gone on, with a job that fails, and by two processes at once."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.processes import Process, run

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
#: One method, two seeds, a network and batches as small as can be.
WORDS = [
    "study=smoke", "~study.settings.layermatch", "~study.settings.supervised", "trainer.max_steps=6", "eval_every=2",
    "checkpoint.every_n_steps=1", "trainer.precision=32-true", "model.width=1", "data.batch_size=4", "data.mu=1",
    "data.num_val=20",
]  # fmt: skip
COMMAND = [sys.executable, "-m", "layermatch.study", *WORDS]
PATIENCE = 1200


def start(folder: Path, *words: str) -> Process:
    return Process([*COMMAND, *words], cwd=folder, env=ENVIRONMENT, ranks=1 + 3)


def ended(process: Process) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    return process.wait(), output, errors


def figures(study_dir: Path) -> list[dict[str, str]]:
    """The lines of a table, but for what says where, when and how fast."""
    with (study_dir / "study.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    apart = {"run_dir", "seconds", "processor_seconds", "in_one_go"}
    return [{name: value for name, value in row.items() if name not in apart} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
def test_a_study_that_is_hurt_ends_with_the_table_of_one_that_is_not(tmp_path: Path) -> None:
    # Two processes at once on one directory: each run is made once, by one of them.
    together = [start(tmp_path, "run_dir=whole", "jobs=1") for _ in range(2)]
    for process in together:
        status, output, errors = ended(process)
        assert status == 0, errors
        assert "2 of 2 runs finished" in output or "left to another process" in output or "2 of 2: " in output
    logs = [path.read_text() for path in (tmp_path / "whole" / "runs").glob("*/*/*/run.log")]
    assert len(logs) == 2
    assert all(log.count("Results") == 1 and log.count(" Plan") <= 1 for log in logs)
    expected = figures(tmp_path / "whole")
    assert [(row["setting"], row["seed"]) for row in expected] == [("fixmatch", "0"), ("fixmatch", "1")]

    # One that cannot be run, and a study that is killed with all its runs as soon as one has a checkpoint.
    hurt = tmp_path / "hurt"
    obstacle = hurt / "runs" / "fixmatch" / "labels-10" / "seed-1"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    process = start(tmp_path, "run_dir=hurt", "jobs=1")
    until = time.monotonic() + PATIENCE
    while not list(hurt.glob("runs/*/*/*/checkpoints/*.ckpt")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    ended(process)  # its run goes on, and is not started a second time
    status, output, errors = ended(start(tmp_path, "run_dir=hurt", "jobs=1"))
    assert status == 1
    assert errors.splitlines()[-2].startswith("failed: fixmatch, 10 labels, seed 1: run_dir=hurt/runs/fixmatch/")
    assert errors.splitlines()[-1].startswith("error: 1 of 2 runs failed")
    assert "is a file: give a directory" in (hurt / "study.md").read_text()
    assert [row for row in expected if (row["setting"], row["seed"]) != ("fixmatch", "1")] == figures(hurt)

    # Tried again, and asked to stop in the middle of it; then to its end.
    obstacle.unlink()
    process = start(tmp_path, "run_dir=hurt", "jobs=1")
    while not list(obstacle.glob("checkpoints/*.ckpt")):
        assert time.monotonic() < until + PATIENCE
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, output, errors = ended(process)
    if status:  # else the signal came after the last step
        assert status == 75
        assert "the same command goes on" in errors
    status, output, errors = ended(start(tmp_path, "run_dir=hurt", "jobs=1"))
    assert status == 0, errors
    assert figures(hurt) == expected
    assert {path.name for path in (hurt / "splits").iterdir()} == {
        path.name for path in (tmp_path / "whole" / "splits").iterdir()
    }
    for path in (hurt / "splits").iterdir():  # the same seed gives the same split
        assert path.read_text() == (tmp_path / "whole" / "splits" / path.name).read_text()


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE)
def test_a_study_with_folds_judges_each_run_by_what_it_held_out(tmp_path: Path) -> None:
    words = [
        "study=cross_validation", "study.num_labels=[20]", "study.folds=2", "study.seeds=[0]", "trainer=cpu",
        "trainer.max_steps=2", "eval_every=2", "trainer.precision=32-true", "model.width=1", "data.batch_size=4",
        "data.mu=1", "jobs=2", "run_dir=mine",
    ]  # fmt: skip
    command = [sys.executable, "-m", "layermatch.study", *words]
    done = run(command, cwd=tmp_path, env=ENVIRONMENT, ranks=1 + 4, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "layermatch against supervised with 20 labels: cannot tell." in done.stdout
    content = json.loads((tmp_path / "mine" / "study.json").read_text())
    assert len(content["verdicts"]) == 1
    assert content["machines"][0].count(",") >= 3
    folds = sorted((tmp_path / "mine" / "folds").iterdir())
    assert len(folds) == 2
    with (tmp_path / "mine" / "study.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["setting"], row["fold"]) for row in rows] == [
        ("supervised", "1"), ("layermatch", "1"), ("supervised", "2"), ("layermatch", "2"),
    ]  # fmt: skip
    for row in rows:
        assert float(row["processor_seconds"]) > 0.1  # a fork has not imported anything
        split = json.loads((tmp_path / row["run_dir"] / "split.json").read_text())
        fold = json.loads(folds[int(row["fold"]) - 1].read_text())
        assert (split["labelled"], split["validation"]) == (fold["labelled"], fold["validation"])
        assert len(fold["labelled"]) == len(fold["validation"]) == 10
        results = json.loads((tmp_path / row["run_dir"] / "results.json").read_text())
        assert float(row["val/accuracy_ema"]) == results["val"]["accuracy_ema"]
    # Called from elsewhere it finds them all.
    elsewhere = [*command[:-1], "run_dir=study/mine"]
    (tmp_path / "study").mkdir()
    (tmp_path / "mine").rename(tmp_path / "study" / "mine")
    done = subprocess.run(elsewhere, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs finished" in done.stdout
