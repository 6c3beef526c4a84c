"""Sweeps: a job that fails, a sweep that was interrupted, one that is refused, and where jobs are."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.cli.test_wrong_input import refused
from tests.data import stand_ins
from tests.faults.runs import SMALL, finish, newest_name, newest_step, same_training, start, wait_for
from tests.test_config import settings_of

Cli = Callable[..., None]

#: As fast as a run can be.
TINY = (
    "data.batch_size=4", "data.mu=1", "algorithm.layer_gradients_every=0", "pseudo_labels.threshold=0.15",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "schedule=constant", "logger=none",
)  # fmt: skip


def status_of(cli: Cli, *words: str) -> object:
    with pytest.raises(SystemExit) as stop:
        cli(*words)
    return stop.value.code


def seeds(sweep: Path) -> dict[str, int]:
    return {path.parent.name: json.loads(path.read_text())["seed"] for path in sweep.glob("*/results.json")}


@pytest.mark.slow
def test_a_job_that_fails_does_not_end_the_others(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = status_of(cli, "-m", "run_dir=sw", "optimizer.lr=-1,1e30,0.03", "trainer.max_steps=20", *TINY)
    assert status == 1  # the two failed in two ways
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = printed.err.splitlines()
    assert lines[0].startswith("error: sw/0: optimizer: Invalid learning rate")
    assert lines[1].startswith("error: sw/1: ")
    assert lines[2] == (
        "error: 2 of 3 jobs failed: sw/0, sw/1: to try them again, give the same command and ckpt_path=auto"
    )
    table = printed.out.partition("Sweep")[2]
    assert table.count("failed: ") == 2
    assert "finished" in table
    assert set(seeds(in_empty_folder / "sw")) == {"2"}


def test_all_jobs_fail_alike(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(cli, "-m", "run_dir=sw", "seed=-1,-2", "trainer.max_steps=1") == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line[:13] for line in errors] == ["error: sw/0: ", "error: sw/1: ", "error: 2 of 2"]


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("trainer.max_steps=2", "checkpoint.every_n_steps=1", *TINY)
    cli("-m", "run_dir=whole", "seed=0,1,2", *options)
    # As it is left by a kill in the second job, after its first step.
    shutil.copytree("whole", "sw")
    sw = in_empty_folder / "sw"
    shutil.rmtree(sw / "2")
    for name in ("results.json", "predictions.csv", "checkpoints/step-0000002.ckpt"):
        (sw / "1" / name).unlink()
    before = {path: path.stat().st_mtime_ns for path in (sw / "0").rglob("*")}
    capsys.readouterr()

    cli("-m", "run_dir=sw", "seed=0,1,2", *options, "ckpt_path=last")
    printed = capsys.readouterr()
    assert "sw/0 is finished, 2 steps: nothing to do" in printed.out
    assert printed.out.partition("Sweep")[2].count("finished") == 3
    assert {path: path.stat().st_mtime_ns for path in (sw / "0").rglob("*")} == before
    assert seeds(sw) == {"0": 0, "1": 1, "2": 2}
    for job in ("1", "2"):
        last = Path(job) / "checkpoints" / "step-0000002.ckpt"
        assert same_training(in_empty_folder / "whole" / last, sw / last)


def write_job(path: Path, *overrides: str) -> None:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings_of(*overrides)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=0,1"], "run_dir=sw already holds jobs of a sweep (0, 1): give another run_dir, or ckpt_path=auto"),
        (["seed=1,0", "ckpt_path=auto"], "run_dir=sw/0 holds a run with seed=0, not 1"),
        (["seed=0,1", "optimizer.lr=0.1", "ckpt_path=last"], "sw/0 holds a run with optimizer.lr=0.03, not 0.1"),
        (["algorithm=fixmatch,typo", "ckpt_path=auto"], "unknown algorithm=typo: choose one of abc, adamatch"),
        (["seed=0,1", "optimizer.lt=3"], "unknown setting optimizer.lt: choose one of"),
    ],
)  # fmt: skip
def test_a_refused_sweep_changes_nothing(
    words: list[str], line: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_job(in_empty_folder / "sw" / str(seed), f"seed={seed}")
    (in_empty_folder / "sw" / "multirun.yaml").write_text("of the first sweep")
    files = {path: path.read_bytes() for path in in_empty_folder.rglob("*.yaml")}
    assert line in refused(cli, capsys, "-m", "run_dir=sw", *words)
    assert {path: path.read_bytes() for path in in_empty_folder.rglob("*.yaml")} == files


def test_a_refused_first_sweep_leaves_nothing(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "unknown algorithm=typo" in refused(cli, capsys, "-m", "run_dir=a/sw", "algorithm=fixmatch,typo")
    assert "needs a run_dir" in refused(cli, capsys, "-m", "seed=0,1", "ckpt_path=auto")
    assert list(in_empty_folder.iterdir()) == []


def test_a_swept_root_is_another_job(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A data set may be moved between two starts, but not when it is what the jobs differ in."""
    for job, root in enumerate(("a", "b")):
        write_job(in_empty_folder / "sw" / str(job), "experiment=folder", f"data.root={root}")
    words = ("-m", "run_dir=sw", "experiment=folder", "ckpt_path=auto")
    assert "sw/0 holds a run with data.root=a, not b" in refused(cli, capsys, *words, "data.root=b,a")
    assert status_of(cli, *words, "seed=0", "data.root=c") == 2  # that folder is not there: job 0 was tried
    assert "error: sw/0: data.root='c' is not a folder" in capsys.readouterr().err


def test_jobs_that_change_the_working_directory(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins.write_folder(in_empty_folder / "pictures", size=8)
    words = ("experiment=folder", "data.root=pictures", "data.image_size=8", "model=wrn_small", "seed=0,-1")
    more = ("data.num_labels=3", "data.num_val=0", "trainer.max_steps=1", *TINY)
    assert status_of(cli, "-m", "hydra.job.chdir=true", "run_dir=sw (1)", *words, *more) == 2
    assert seeds(in_empty_folder / "sw (1)") == {"0": 0}
    assert [path.relative_to(in_empty_folder) for path in in_empty_folder.rglob("results.json")] == [
        Path("sw (1)/0/results.json")
    ]
    assert Path.cwd() == in_empty_folder


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_goes_on(tmp_path: Path, fault: Callable[..., None]) -> None:
    command = ("-m", "run_dir=sw", "seed=0,1", *SMALL)
    process = start(tmp_path, *command, "trainer.max_steps=100000")
    wait_for(lambda: newest_name(tmp_path / "sw" / "0") >= 10, process)
    process.terminate()
    status, text = finish(process)
    assert status == 75
    assert text.splitlines()[-1] == "the sweep goes on with the same command and ckpt_path=auto"
    assert not (tmp_path / "sw" / "1").exists()
    assert newest_step(tmp_path / "sw" / "0") > 0
    fault("SIGTERM to a sweep (status 75)", tried=1, survived=1, lost="nothing")


@pytest.mark.slow
def test_a_sweep_is_reported_on_while_it_runs(tmp_path: Path) -> None:
    # One setting in which the first job ends soon, and the second would take for ever.
    process = start(tmp_path, "-m", "run_dir=sw", "trainer.max_steps=6,100000", "checkpoint.every_n_steps=2", *TINY)
    wait_for(lambda: newest_name(tmp_path / "sw" / "1") >= 4, process)
    report = [sys.executable, "-m", "layermatch.report", "--multirun", "sw", "--out", "report.html"]
    done = subprocess.run(report, cwd=tmp_path, capture_output=True, text=True, check=False)
    listed = [sys.executable, "-m", "layermatch.runs", "sw"]
    table = subprocess.run(listed, cwd=tmp_path, capture_output=True, text=True, check=False)
    process.terminate()
    status, _ = finish(process)
    assert (done.returncode, table.returncode, status) == (0, 0, 75), done.stderr + table.stderr
    page = (tmp_path / "report.md").read_text()
    assert r"| sw/0 | layermatch, max\_steps=6 | 0 | finished | 6 |" in page
    assert r"| sw/1 | layermatch, max\_steps=100000 | 0 | running |" in page
    states = {row.split()[0]: row for row in table.stdout.splitlines() if "layermatch" in row}
    assert " finished " in states["0"]
    assert " running " in states["1"]
