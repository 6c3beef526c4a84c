"""Sweeps whose jobs are started elsewhere: by joblib, by submitit, by another process of the same sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import torch
from hydra.errors import MissingConfigException
from tests.cli.test_sweeps import TINY
from tests.faults.runs import finish, newest_name, start, wait_for
from tests.processes import Process

from layermatch.cli import explain
from layermatch.device_places import VISIBLE, own_gpus, visible_gpus
from layermatch.passed_signals import run_and_pass_signals
from layermatch.runs.claims import Holder, ended_in, holder_of, take
from layermatch.runs.layout import CLAIMS

Cli = Callable[..., None]
ROOT = Path(__file__).parents[2]
#: A checkpoint at every step, to be stopped anywhere.
EVERY = ("data.num_val=20", "checkpoint.every_n_steps=1", "checkpoint.keep=1", *TINY)

JOBLIB = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def states(sweep: Path) -> dict[str, tuple[str, int]]:
    """How each job ended, and how often it was tried."""
    return {run_dir.name: (holder.state, holder.number) for run_dir, holder in ended_in(sweep).items()}


def last(sweep: Path, job: str) -> Holder:
    holder = holder_of(sweep / job)
    assert holder is not None
    return holder


def steps(run_dir: Path) -> int:
    return int(json.loads((run_dir / "results.json").read_text())["steps"])


class Cold(subprocess.Popen[str]):
    """A command that is no fork: joblib's workers are told to end as Python ends, and idle for minutes otherwise."""

    def written(self) -> tuple[str, str]:
        return "", self.communicate()[1]


def start_cold(folder: Path, *arguments: str) -> Cold:
    command = [sys.executable, "-m", "layermatch.run", *arguments]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return Cold(command, cwd=folder, start_new_session=True, text=True, **streams)


def below(process: Process | Cold, *words: str) -> list[psutil.Process]:
    """The processes that it has started, through whomever, with some words in their command."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            command = child.cmdline()
            if all(any(word in argument for argument in command) for word in words):
                found.append(child)
        except psutil.Error:
            continue
    return found


def runs(task: psutil.Process, run_dir: str) -> bool:
    """Whether a process has started the job of a directory."""
    return any(run_dir in word for child in task.children(recursive=True) for word in child.cmdline())


@pytest.mark.slow
def test_a_sweep_under_joblib_goes_on_past_a_job_that_fails_and_one_that_is_killed(tmp_path: Path) -> None:
    sw = tmp_path / "sw"
    # Two at once. Each step writes a checkpoint, so that a job is at work for seconds when its first one is seen.
    words = (*JOBLIB, "run_dir=sw", "optimizer.lr=0.02,-1,0.03", "trainer.max_steps=60", *EVERY)
    process = start_cold(tmp_path, *words)
    wait_for(lambda: newest_name(sw / "0") >= 0, process)
    (killed,) = below(process, "run_dir=", "sw/0")
    killed.kill()
    wait_for(lambda: newest_name(sw / "2") >= 0, process)
    process.terminate()  # the job that is at work writes its checkpoint
    status, errors = finish(process)
    assert status == 75, errors
    assert {name: state for name, (state, _) in states(sw).items()} == {"0": "failed", "1": "failed", "2": "stopped"}
    assert last(sw, "0").why == "was killed by signal 9: see its lines above"
    assert errors.splitlines()[-1] == "the sweep goes on with the same command and ckpt_path=auto"
    assert "Traceback" not in errors

    again = start_cold(tmp_path, *words, "ckpt_path=auto")
    status, errors = finish(again)
    assert status == 2, errors
    assert errors.splitlines()[-1].startswith("error: 1 of 3 jobs failed: sw/1: to try them again")
    assert states(sw) == {"0": ("finished", 2), "1": ("failed", 2), "2": ("finished", 2)}
    assert steps(sw / "0") == steps(sw / "2") == 60


@pytest.mark.slow
def test_a_sweep_under_submitit_skips_what_is_finished_goes_on_past_what_fails_and_queues_again_what_is_signalled(
    cli: Cli, in_empty_folder: Path
) -> None:
    sw = in_empty_folder / "sw"
    words = ("-m", "run_dir=sw", "trainer.max_steps=60", "eval_every=1000", *EVERY)
    cli(*words, "optimizer.lr=0.02")  # in this process, which is cheaper: who started a job makes no difference
    before = {path: path.stat().st_mtime_ns for path in (sw / "0").rglob("*")}
    process = start(
        in_empty_folder, *words, "optimizer.lr=0.02,-1,0.03", "hydra/launcher=submitit_local", "ckpt_path=auto"
    )
    wait_for(lambda: newest_name(sw / "2") >= 0, process)
    (task,) = (task for task in below(process, "submitit.core._submit") if runs(task, "sw/2"))
    task.send_signal(signal.SIGUSR2)  # as before the end of the time that it may take
    status, errors = finish(process)
    assert status == 2, errors
    assert errors.splitlines()[-1].startswith("error: 1 of 3 jobs failed: sw/1: to try them again")
    # The first was looked at again, and left as it is.
    assert states(sw) == {"0": ("finished", 2), "1": ("failed", 1), "2": ("finished", 2)}
    assert {path: path.stat().st_mtime_ns for path in (sw / "0").rglob("*")} == before
    assert steps(sw / "2") == 60
    first = json.loads((sw / CLAIMS / "2.0001.json").read_text())
    assert (first["state"], first["status"]) == ("stopped", 75)
    logs = [path.read_text() for path in (sw / ".submitit").rglob("*_log.out")]
    assert not any("2 is finished" in log for log in logs)  # it had steps left, and made them


@pytest.mark.slow
def test_two_processes_share_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    sw = tmp_path / "sw"
    words = ("-m", "run_dir=sw", "seed=0,1,2", "ckpt_path=auto", "trainer.max_steps=30", *EVERY)
    first = start(tmp_path, *words)
    wait_for(lambda: newest_name(sw / "0") >= 0, first)
    second = start(tmp_path, *words)
    for process in (second, first):
        status, errors = finish(process)
        assert status == 0, errors
    assert [state for state, _ in states(sw).values()] == ["finished"] * 3
    assert [steps(sw / str(job)) for job in range(3)] == [30, 30, 30]
    by = {json.loads(path.read_text())["pid"] for path in (sw / CLAIMS).glob("*.0001.json")}
    assert by == {first.pid, second.pid}  # each has begun one at least
    assert "error" not in first.written()[1] + second.written()[1]


def test_a_job_of_a_process_that_is_at_work_is_left_to_it(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sw").mkdir()
    claims = [take(in_empty_folder / "sw" / str(job)) for job in range(2)]
    cli("-m", "run_dir=sw", "seed=0,1", "trainer.max_steps=1", *TINY)
    printed = capsys.readouterr()
    assert "2 of 2 jobs are at work in other processes" in printed.out
    assert printed.out.count(f"running: process {os.getpid()} on") == 2
    assert not list(Path("sw").glob("*/config.yaml"))
    for claim in claims:
        assert claim is not None
        claim.release("stopped")


def test_a_launcher_that_is_not_installed_names_the_extra() -> None:
    def error(name: str) -> MissingConfigException:
        return MissingConfigException("", missing_cfg_file=f"hydra/launcher/{name}", options=["basic"])

    assert explain(error("joblib")) == (
        "hydra/launcher=joblib needs a package that is not installed: pip install 'layermatch[sweep]'"
    )
    assert explain(error("jobs")) == "unknown hydra/launcher=jobs: choose one of basic"


#: Tells its parent that it is there, and the first signal that it gets.
WAITS = """
import signal, sys, time
got = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
    signal.signal(number, lambda number, frame: got.append(number))
print("there", flush=True)
while not got:
    time.sleep(0.01)
sys.exit(got[0])
"""


@pytest.mark.parametrize(
    ("sent", "arrives", "held_back"),
    [
        (signal.SIGTERM, signal.SIGTERM, None),
        (signal.SIGUSR1, signal.SIGUSR1, None),
        (signal.SIGINT, signal.SIGTERM, None),  # a terminal has sent it to both
        (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2),  # submitit's: it has to see it, later
    ],
)
def test_a_job_gets_the_signals_of_the_process_that_waits_for_it(
    sent: signal.Signals, arrives: signal.Signals, held_back: int | None, tmp_path: Path
) -> None:
    code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from layermatch.passed_signals import run_and_pass_signals
print(*run_and_pass_signals([sys.executable, "-c", {WAITS!r}], env=os.environ, cwd="."))
"""
    (tmp_path / "parent.py").write_text(code)
    parent = Process(
        [sys.executable, "parent.py"], cwd=tmp_path, env=os.environ | {"SUBMITIT_EXECUTOR": "local"},
    )  # fmt: skip
    wait_for(lambda: "there" in parent.written()[0], parent)
    parent.send_signal(sent)
    output, errors = parent.communicate(timeout=100)
    assert output.splitlines() == ["there", f"{int(arrives)} {None if held_back is None else int(held_back)}"], errors


def test_jobs_are_spread_over_the_gpus(tmp_path: Path) -> None:
    with ExitStack() as held:
        given = [held.enter_context(own_gpus(tmp_path, ["2", "GPU-5a/1"]))[VISIBLE] for _ in range(3)]
        with own_gpus(tmp_path, ["2", "GPU-5a/1"]) as last_one:
            given.append(last_one[VISIBLE])
        with own_gpus(tmp_path, ["2", "GPU-5a/1"]) as after:
            assert after == last_one  # what is given back is given again
    assert given == ["2", "GPU-5a/1", "2", "GPU-5a/1"]
    with own_gpus(tmp_path, ["2"]) as alone:
        assert alone == {}


def test_a_job_on_several_gpus_has_those_that_the_fewest_have(tmp_path: Path) -> None:
    gpus = ["0", "1", "2"]
    with own_gpus(tmp_path, gpus) as one, own_gpus(tmp_path, gpus, count=2) as two, own_gpus(tmp_path, gpus) as more:
        assert [place[VISIBLE] for place in (one, two, more)] == ["0", "1,2", "0"]
    with own_gpus(tmp_path, gpus, count=3) as everything, own_gpus(tmp_path, gpus, count=0) as nothing:
        assert everything == nothing == {}


@pytest.mark.parametrize(
    ("hidden", "visible"),
    [
        (None, ["0", "1", "2"]), ("", []), ("-1", []), ("NoDevFiles", []), ("2,-1,0", ["2"]), (" 2, 1", ["2", "1"]),
        ("0,1,2,3", ["0", "1", "2"]), ("GPU-5a,MIG-7", ["GPU-5a", "MIG-7"]),
    ],
)  # fmt: skip
def test_gpus_are_those_that_cuda_sees(hidden: str | None, visible: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert visible_gpus({} if hidden is None else {VISIBLE: hidden}) == visible


def test_what_ends_a_job_is_its_status() -> None:
    for code, status in (("raise SystemExit(75)", 75), ("import os; os.kill(os.getpid(), 9)", -9)):
        assert run_and_pass_signals([sys.executable, "-c", code], env=os.environ, cwd=".") == (status, None)


@pytest.mark.parametrize(("status", "is_requeued"), [(0, False), (75, True), (1, False), (2, False)])
def test_the_job_script_queues_itself_again_where_it_was_stopped(
    status: int, is_requeued: bool, tmp_path: Path
) -> None:
    """The programs of SLURM are stand-ins: what is tested is what the script makes of a status."""
    programs = {"srun": f'echo "$@" > asked\nexit {status}', "scontrol": 'echo "$@" > requeued'}
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "docs/slurm.sbatch"), "seed=1"], cwd=tmp_path, check=False,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"},
    )  # fmt: skip
    assert done.returncode == status
    asked = (tmp_path / "asked").read_text().split()
    assert {"ckpt_path=auto", "run_dir=runs/stl10", "seed=1"} <= set(asked)
    assert (tmp_path / "requeued").exists() == is_requeued
    if is_requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 17\n"
