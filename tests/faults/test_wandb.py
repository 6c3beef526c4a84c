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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.dashboards.commands import SMALL, do_runs, start_runs
from tests.dashboards.offline_file import WandbFile, wandb_files
from tests.dashboards.servers import KEY, Server, closed_port, environment_for, silent_server

from layermatch.dashboards.reachable import CHECK_SECONDS

pytestmark = pytest.mark.slow

Fault = Callable[..., None]

#: Seconds that W&B may take to start, and at the end.
TIMEOUT = 5

#: W&B takes this long beyond its own limit to give up starting.
GRACE = 10

SHORT = ("run_dir=out", "logger=wandb", f"logger.timeout={TIMEOUT}", "trainer.max_steps=4", *SMALL)
#: Long enough for something to happen in the middle.
LONG = (
    "run_dir=out", "logger=wandb", f"logger.timeout={TIMEOUT}", "trainer.max_steps=300",
    *(setting for setting in SMALL if not setting.startswith(("eval_every", "checkpoint"))), "eval_every=50",
)  # fmt: skip


@pytest.fixture(scope="module")
def offline_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the short run takes that never asks a server."""
    started = time.monotonic()
    do_runs((*SHORT, "logger.offline=true"), folder=tmp_path_factory.mktemp("offline"))
    return time.monotonic() - started


def said_by_us(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("W&B:")]


def assert_complete(files: list[WandbFile], run_dir: Path) -> None:
    """The files of a run hold, together, every step of metrics.csv, and the results."""
    results = json.loads((run_dir / "results.json").read_text())
    assert len({read.run_id for read in files}) == 1
    steps = {row["_step"] for read in files for row in read.history}
    assert {int(line.partition(",")[0]) for line in csv_steps(run_dir)} <= steps
    last = files[-1]
    assert last.exit_code == 0
    assert last.summary["test/accuracy_ema"] == pytest.approx(results["test"]["accuracy_ema"])
    assert {"figures/confusion", "test/confusion_table", "objective"} <= last.keys
    pictures = [value for row in last.history for value in row.values() if isinstance(value, dict) and "path" in value]
    for picture in pictures:
        assert (last.folder / "files" / picture["path"]).stat().st_size == picture["size"]


def csv_steps(run_dir: Path) -> list[str]:
    header, *rows = (run_dir / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("step")
    return [row.split(",")[column] for row in rows]


# --------------------------------------------------------------------------------------------------------- at the start


def error_500() -> Iterator[str]:
    with Server(lambda *_: (500, {})) as server:
        yield server.url


def closed() -> Iterator[str]:
    with closed_port() as url:
        yield url


def silent() -> Iterator[str]:
    with silent_server() as url:
        yield url


@pytest.mark.parametrize(
    ("name", "server", "offline", "said"),
    [
        ("W&B: nobody listens", closed, "false", "Connection refused"),
        ("W&B: the server takes calls and never answers", silent, "auto", "no answer within"),
        ("W&B: the server answers 500", error_500, "false", "HTTP status 500"),
    ],
    ids=["closed", "silent", "500"],
)
def test_a_server_that_is_not_there_makes_an_offline_run(
    name: str,
    server: Callable[[], Iterator[str]],
    offline: str,
    said: str,
    tmp_path: Path,
    offline_seconds: float,
    fault: Fault,
) -> None:
    address = server()
    started = time.monotonic()
    _, errors = do_runs(
        (*SHORT, f"logger.offline={offline}"), folder=tmp_path, environment=environment_for(next(address))
    )
    seconds = time.monotonic() - started
    address.close()
    (line,) = said_by_us(errors)
    assert said in line
    assert "`wandb sync out/wandb/*run-*-" in line
    (read,) = wandb_files(tmp_path / "out")
    assert read.folder.name.startswith("offline-run-")
    assert_complete([read], tmp_path / "out")
    assert seconds < bound(offline_seconds, waiting=CHECK_SECONDS)
    fault(name, tried=1, survived=1, lost="nothing")


def bound(offline_seconds: float, *, waiting: float) -> float:
    """What a run may take: what it waits for W&B, and what it takes anyhow, on a machine that does more besides."""
    return waiting + 3 * offline_seconds


def test_a_key_in_netrc_is_found_without_asking_a_silent_server(
    tmp_path: Path, offline_seconds: float, fault: Fault
) -> None:
    with silent_server() as url:
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
        netrc.chmod(0o600)
        started = time.monotonic()
        _, errors = do_runs(SHORT, folder=tmp_path, environment={"WANDB_BASE_URL": url, "NETRC": str(netrc)})
    (line,) = said_by_us(errors)
    assert "no answer within" in line  # and so it was asked, as there is a key
    assert_complete(wandb_files(tmp_path / "out"), tmp_path / "out")
    assert time.monotonic() - started < bound(offline_seconds, waiting=CHECK_SECONDS)
    fault("W&B: key in .netrc, server never answers", tried=1, survived=1, lost="nothing")


def test_a_server_that_refuses_the_run_makes_an_offline_run(
    tmp_path: Path, offline_seconds: float, fault: Fault
) -> None:
    """It answers, and then says 500 to whatever is about runs."""

    def refuse(_path: str, operation: str, _variables: dict[str, Any]) -> tuple[int, Any] | None:
        return None if operation in {"ServerInfo", "Viewer"} else (500, {})

    started = time.monotonic()
    with Server(refuse) as server:
        _, errors = do_runs(SHORT, folder=tmp_path, environment=environment_for(server.url))
    (line,) = said_by_us(errors)
    assert "500" in line
    files = [read for read in wandb_files(tmp_path / "out") if read.folder.name.startswith("offline-run-")]
    assert len(files) == 1
    assert_complete(files, tmp_path / "out")
    assert time.monotonic() - started < bound(offline_seconds, waiting=CHECK_SECONDS + TIMEOUT + GRACE)
    fault("W&B: the server refuses the run", tried=1, survived=1, lost="nothing")


# -------------------------------------------------------------------------------------------------------- in the middle


@pytest.mark.parametrize(
    ("name", "kind"),
    [("W&B: the server dies in the middle", "dies"), ("W&B: the server stops answering in the middle", "stalls")],
)
def test_a_server_that_fails_in_the_middle(
    name: str, kind: str, tmp_path: Path, offline_seconds: float, fault: Fault
) -> None:
    it_failed, over = threading.Event(), threading.Event()

    def fail(path: str, _operation: str, _variables: dict[str, Any]) -> tuple[int, Any] | None:
        if path.endswith("/file_stream"):  # the run has begun
            it_failed.set()
        if it_failed.is_set():
            if kind == "dies":
                server.die()
            over.wait(120)
        return None

    started = time.monotonic()
    with Server(fail) as server:
        process = start_runs((*LONG, "logger.offline=false"), folder=tmp_path, environment=environment_for(server.url))
        assert it_failed.wait(120)
        rows_before = len(csv_steps(tmp_path / "out")) if (tmp_path / "out" / "metrics.csv").exists() else 0
        _, errors = process.communicate(timeout=240)
        over.set()
    seconds = time.monotonic() - started
    assert process.returncode == 0, errors[-3000:]
    (line,) = said_by_us(errors)
    assert "the server has gone" in line
    assert re.search(r"`wandb sync out/wandb/\*run-\*-\w+` sends it later", line)
    assert len(csv_steps(tmp_path / "out")) > rows_before + 100  # it was in the middle
    online, offline = wandb_files(tmp_path / "out")
    assert online.folder.name.startswith("run-")
    assert_complete([online, offline], tmp_path / "out")
    assert seconds < bound(3 * offline_seconds, waiting=CHECK_SECONDS + TIMEOUT)  # it is a longer run, too
    fault(name, tried=1, survived=1, lost="nothing")


def test_wandbs_own_process_is_killed(tmp_path: Path, fault: Fault) -> None:
    process = start_runs((*LONG, "logger.offline=true"), folder=tmp_path)
    wait_for_rows(tmp_path / "out", process, 10)
    os.kill(child_of(process.pid, "wandb-core"), signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    (line,) = said_by_us(errors)
    assert "it stopped" in line
    assert "the run goes on offline" in line
    before, after = wandb_files(tmp_path / "out")
    assert before.exit_code is None
    assert (after.run_id, after.exit_code) == (before.run_id, 0)
    last = max((row["_step"] for row in before.history), default=0)
    steps = {int(step) for step in csv_steps(tmp_path / "out")}
    missing = {step for step in steps if step > last} - {row["_step"] for row in after.history}
    assert len(missing) < len(steps) / 2
    assert after.summary["test/selection"] == "last step"
    assert {"figures/confusion", "test/confusion_table"} <= after.keys
    fault("W&B: its own process is killed", tried=1, survived=1, lost="rows of about a second, in W&B's file only")


def wait_for_rows(run_dir: Path, process: subprocess.Popen[str], number: int) -> None:
    while process.poll() is None:
        if (run_dir / "metrics.csv").exists() and len(csv_steps(run_dir)) >= number:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1][-3000:])


def child_of(pid: int, name: str) -> int:
    """A descendant process by its name."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    raise AssertionError(f"process {pid} has no child {name}")
