"""W&B unreachable, slow, or failing in the middle: the run is neither delayed for long nor stopped, and its record on
disk is complete.

The servers are real ones on 127.0.0.1, the faults happen to real runs in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.dashboards.commands import SMALL, clean_environment, do_runs, start_runs
from tests.dashboards.offline_file import WandbFile, wandb_files
from tests.dashboards.servers import KEY, Server, closed_port, environment_for, silent_server
from tests.processes import Process

from layermatch.dashboards.reachable import CHECK_SECONDS
from layermatch.dashboards.wandb_run import EMPTY_RECORD

pytestmark = pytest.mark.slow

Fault = Callable[..., None]

#: Seconds that W&B may take to start, and at the end.
TIMEOUT = 4

#: W&B takes so many seconds more before it gives up starting.
GRACE = 10

COMMON = ("logger=wandb", f"logger.timeout={TIMEOUT}")
SHORT = ("trainer.max_steps=4", *COMMON, *SMALL)
#: Long enough for something to happen in the middle.
LONG = (
    "run_dir=out", "trainer.max_steps=80", *COMMON, *(setting for setting in SMALL if "every" not in setting),
    "trainer.log_every=2", "eval_every=40",
)  # fmt: skip


def said_by_us(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("W&B:")]


def logged_steps(run_dir: Path) -> list[int]:
    """The steps of metrics.csv, row by row."""
    header, *rows = (run_dir / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("step")
    return [int(row.split(",")[column]) for row in rows]


def check_complete(files: list[WandbFile], run_dir: Path) -> None:
    """Together, a run's files hold every step of metrics.csv, the results, and every picture."""
    results = json.loads((run_dir / "results.json").read_text())
    assert len({read.run_id for read in files}) == 1
    assert set(logged_steps(run_dir)) <= {row["_step"] for read in files for row in read.history}
    assert files[-1].exit_code == 0
    assert files[-1].summary["test/selection"] == results["test"]["selection"]
    assert {"figures/confusion", "test/confusion_table", "objective"} <= set().union(*(read.keys for read in files))
    for read in files:
        pictures = [value for row in read.history for value in row.values() if isinstance(value, dict)]
        for picture in pictures:
            if "path" in picture and "size" in picture:
                assert (read.folder / "files" / picture["path"]).stat().st_size == picture["size"]


# --------------------------------------------------------------------------------------------------------- at the start


@dataclass(frozen=True)
class Start:
    """A run that was to start with a server that is at fault."""

    said: list[str]
    seconds: float
    seconds_offline: float
    run_dir: Path


@dataclass(frozen=True)
class Starts:
    runs: dict[str, Start]
    seconds_at_exit: float


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Starts:
    """A run that asks no server, and one with every fault at the start, in one process."""

    def refuse(_path: str, operation: str, _variables: dict[str, Any]) -> tuple[int, Any] | None:
        return None if operation in {"ServerInfo", "Viewer"} else (500, {})

    folder = tmp_path_factory.mktemp("starts")
    broken, refusing = Server(lambda *_: (500, {})), Server(refuse)
    with closed_port() as closed, silent_server() as silent, broken, refusing:
        netrc = folder / "keys"
        netrc.write_text(f"machine {silent.removeprefix('http://')}\n  login user\n  password {KEY}\n")
        netrc.chmod(0o600)
        given: dict[str, tuple[str, dict[str, str]]] = {
            "offline": ("true", {}),
            "netrc": ("auto", {"WANDB_BASE_URL": silent, "NETRC": str(netrc)}),
            "closed": ("false", environment_for(closed)),
            "500": ("false", environment_for(broken.url)),
            "refused": ("false", environment_for(refusing.url)),
            "silent": ("auto", environment_for(silent)),
        }
        command_lines = [(f"run_dir={name}", f"logger.offline={off}", *SHORT) for name, (off, _) in given.items()]
        _, errors = do_runs(*command_lines, each=[environment for _, environment in given.values()], folder=folder)
        now = time.time()
    took = json.loads((folder / "seconds.json").read_text())
    lines = [line for line in errors.splitlines() if line.startswith("W&B:")]
    runs = {
        name: Start([line for line in lines if f" {name}/wandb/" in line], seconds, took["runs"][0], folder / name)
        for name, seconds in zip(given, took["runs"], strict=True)
    }
    assert sum(len(run.said) for run in runs.values()) == len(lines)  # every line says of which run it is
    return Starts(runs, now - took["ended"])


@pytest.mark.xdist_group("starts")
@pytest.mark.parametrize(
    ("kind", "name", "said", "waiting"),
    [
        ("closed", "nobody listens", "Connection refused", CHECK_SECONDS),
        ("silent", "the server takes calls and never answers", "no answer within 3 s", CHECK_SECONDS),
        ("netrc", "as before, with the key in .netrc", "no answer within 3 s", CHECK_SECONDS),
        ("500", "the server answers 500", "HTTP status 500", CHECK_SECONDS),
        ("refused", "the server answers, and refuses the run", "HTTP 500", CHECK_SECONDS + TIMEOUT + GRACE),
    ],
    ids=["closed", "silent", "netrc", "500", "refused"],
)
def test_a_server_that_is_not_there_makes_an_offline_run(
    kind: str, name: str, said: str, waiting: float, starts: Starts, fault: Fault
) -> None:
    run = starts.runs[kind]
    (line,) = run.said
    assert said in line
    assert re.search(rf"the run is kept offline, `wandb sync {kind}/wandb/\*run-\*-\w+` sends it later", line)
    files = [read for read in wandb_files(run.run_dir) if read.folder.name.startswith("offline-run-")]
    assert len(files) == 1
    check_complete(files, run.run_dir)
    # What it waits for W&B, and what it takes anyhow, on a machine that does more besides.
    assert run.seconds < waiting + 2 * run.seconds_offline + 3
    fault(f"W&B: {name}", tried=1, survived=1, lost="nothing")


@pytest.mark.xdist_group("starts")
def test_no_server_holds_up_the_exit(starts: Starts) -> None:
    assert starts.seconds_at_exit < 8


# -------------------------------------------------------------------------------------------------------- in the middle


@pytest.mark.xdist_group("starts")
@pytest.mark.parametrize(("kind", "name"), [("dies", "the server dies"), ("stalls", "the server stops answering")])
def test_a_server_that_fails_in_the_middle(kind: str, name: str, tmp_path: Path, starts: Starts, fault: Fault) -> None:
    it_failed, over = threading.Event(), threading.Event()

    def fail(path: str, _operation: str, _variables: dict[str, Any]) -> tuple[int, Any] | None:
        if path.endswith("/file_stream"):  # the run has begun
            it_failed.set()
        if it_failed.is_set():
            if kind == "dies":
                server.die()
            over.wait(120)
        return None

    with Server(fail) as server:
        process = start_runs((*LONG, "logger.offline=false"), folder=tmp_path, environment=environment_for(server.url))
        assert it_failed.wait(120)
        steps_before = logged_steps(tmp_path / "out") if (tmp_path / "out" / "metrics.csv").exists() else []
        _, errors = process.communicate(timeout=550)
        now = time.time()
        over.set()
    assert process.returncode == 0, errors[-3000:]
    (line,) = said_by_us(errors)
    assert "the server has gone" in line
    assert max(steps_before, default=0) < 70  # of 80: it was in the middle
    online, offline = wandb_files(tmp_path / "out")
    assert (online.folder.name[:4], offline.folder.name[:12]) == ("run-", "offline-run-")
    check_complete([online, offline], tmp_path / "out")
    steps = [row["_step"] for read in (online, offline) for row in read.history]
    assert steps == sorted(steps)
    if kind == "dies":
        check_sync(line, tmp_path, steps=steps)
    took = json.loads((tmp_path / "seconds.json").read_text())
    assert now - took["ended"] < 8
    # Training itself waits for nothing; the end waits for the check, and for what is left to be sent.
    training = float(json.loads((tmp_path / "out" / "results.json").read_text())["seconds"])
    assert took["runs"][0] - training < CHECK_SECONDS + TIMEOUT + starts.runs["offline"].seconds
    fault(f"W&B: {name} in the middle", tried=1, survived=1, lost="nothing")


def check_sync(line: str, folder: Path, *, steps: list[int]) -> None:
    """The command that the line gives sends every row of every file, in order."""
    command = re.search(r"`(wandb sync --include-online out/wandb/\*run-\*-\w+)` sends it later", line)
    assert command is not None, line
    with Server() as server:
        environment = clean_environment(folder) | environment_for(server.url)
        subprocess.run(["sh", "-c", command[1]], cwd=folder, env=environment, check=True, timeout=120)
    assert [row["_step"] for row in server.history] == steps
    assert {"figures/confusion", "test/confusion_table"} <= {key for row in server.history for key in row}


def test_its_own_process_is_killed_in_the_middle(tmp_path: Path, fault: Fault) -> None:
    process = start_runs((*LONG, "logger.offline=true"), folder=tmp_path)
    wait_for_step(tmp_path / "out", process, 20)
    wait_for_record(tmp_path / "out", process)
    os.kill(child_of(process.pid, "wandb-core"), signal.SIGKILL)
    killed_at = logged_steps(tmp_path / "out")[-1]
    _, errors = process.communicate(timeout=550)
    assert process.returncode == 0, errors[-3000:]
    (line,) = said_by_us(errors)
    assert "the run goes on offline" in line
    before, after = wandb_files(tmp_path / "out")
    assert (before.exit_code, after.exit_code) == (None, 0)
    assert before.run_id == after.run_id == before.folder.name.rpartition("-")[2]
    later = {step for step in logged_steps(tmp_path / "out") if step > killed_at + 4}
    assert later
    assert later <= {row["_step"] for row in after.history}  # and metrics.csv has those between
    assert after.summary["test/selection"] == "last step"
    assert {"figures/confusion", "test/confusion_table", "panels/pseudo_labels"} <= after.keys
    fault("W&B: its own process is killed", tried=1, survived=1, lost="up to 15 s of W&B's copy of the curves")


def wait_for_step(run_dir: Path, process: Process, step: int) -> None:
    while process.poll() is None:
        if (run_dir / "metrics.csv").exists() and logged_steps(run_dir)[-1:] >= [step]:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1][-3000:])


def wait_for_record(run_dir: Path, process: Process) -> None:
    """Until W&B has written its file for the first time, which it does every 15 seconds."""
    while process.poll() is None:
        if any(path.stat().st_size > EMPTY_RECORD for path in run_dir.glob("wandb/offline-run-*/run-*.wandb")):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1][-3000:])


def child_of(pid: int, name: str) -> int:
    """A child process by its name."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    raise AssertionError(f"process {pid} has no child {name}")
