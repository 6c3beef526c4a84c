"""The processes of a run wait for each other, say for whom, and give up; a launcher's processes are used."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from tests.processes import Process
from torch.distributed import TCPStore

from layermatch.errors import RunError
from layermatch.launch import Launch
from layermatch.meeting import meet

SMALL = (
    "-m", "layermatch.run", "run_dir=out", "data.batch_size=4", "data.mu=1", "trainer.max_steps=1",
    "trainer.precision=32-true", "trainer.accelerator=cpu",
)  # fmt: skip
HERE = "127.0.0.1"


def start(folder: Path, *arguments: str, **variables: str) -> Process:
    return Process([sys.executable, *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"} | variables)


def test_the_first_machine_says_whom_it_waits_for_and_gives_up(caplog: pytest.LogCaptureFixture) -> None:
    port = find_free_network_port()
    with caplog.at_level(logging.WARNING), pytest.raises(RunError) as error:
        meet(Launch("", 3, 0, 0, 1), address=HERE, port=port, wait=1)
    assert "machine 1, 2 of 3 (they count from 0) did not come in 1 s" in str(error.value)
    assert "a longer trainer.wait" in str(error.value)
    (line,) = caplog.messages
    assert f"start it there with NODE_RANK=1 MASTER_ADDR={os.uname().nodename} MASTER_PORT={port} python -m" in line


def test_another_machine_says_that_the_first_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    port = find_free_network_port()
    with caplog.at_level(logging.WARNING), pytest.raises(RunError) as error:
        meet(Launch("", 2, 1, 0, 1), address=HERE, port=port, wait=1)
    assert error.value.is_said  # by this machine too: its user sees no other
    assert f"the first process of this run, at {HERE}:{port} did not come in 1 s" in str(error.value)
    assert len(caplog.messages) == 1


def test_a_process_of_a_launcher_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RunError, match=r"process 1, 2, 3 of 4 .* in 1 s"),
    ):
        meet(Launch("srun", 4, 0, 0, 2), address=HERE, port=find_free_network_port(), wait=1)
    assert "srun has started it" in caplog.messages[0]


def test_processes_that_come_at_different_times_meet(caplog: pytest.LogCaptureFixture) -> None:
    port = find_free_network_port()

    def come(rank: int) -> TCPStore:
        time.sleep(0.3 * (2 - rank))  # the first one comes last
        return meet(Launch("", 3, rank, rank, 3), address=HERE, port=port, wait=60)

    with ThreadPoolExecutor(3) as threads:
        stores = list(threads.map(come, range(3)))
    assert min(store.num_keys() for store in stores) >= 4
    assert caplog.messages == []


def test_those_that_are_there_hear_who_is_not() -> None:
    port = find_free_network_port()

    def come(rank: int) -> str:
        with pytest.raises(RunError) as error:
            meet(Launch("", 3, rank, rank, 3), address=HERE, port=port, wait=2)
        return str(error.value)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(come, range(2))
    assert first == second
    assert first.startswith("process 2 of 3 (they count from 0) did not come in 2 s")


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with pytest.raises(RunError, match=f"cannot listen at {HERE}:"):
            meet(Launch("", 2, 0, 0, 1), address=HERE, port=taken.getsockname()[1], wait=2)


@pytest.mark.distributed
def test_a_run_gives_up_where_the_second_machine_never_comes(tmp_path: Path) -> None:
    process = start(tmp_path, *SMALL, "trainer.num_nodes=2", "trainer.wait=4")
    _, errors = process.communicate(timeout=550)
    assert process.returncode == 1, errors[-2000:]
    waiting, given_up = errors.splitlines()
    assert "waiting for machine 1 of 2" in waiting
    assert given_up.startswith("error: machine 1 of 2 (they count from 0) did not come in 4 s")


@pytest.mark.distributed
def test_two_machines_are_one_run(tmp_path: Path) -> None:
    place = {"MASTER_ADDR": HERE, "MASTER_PORT": str(find_free_network_port())}
    machines = [start(tmp_path, *SMALL, "trainer.num_nodes=2", **place, NODE_RANK=str(node)) for node in range(2)]
    for machine in machines:
        _, errors = machine.communicate(timeout=550)
        assert machine.returncode == 0, errors[-2000:]
    assert "8 labelled + 8 unlabelled (2 devices x 1 accumulated)" in (tmp_path / "out/run.log").read_text()


@pytest.mark.distributed
@pytest.mark.parametrize("devices", [1, 2])
def test_torchrun(devices: int, tmp_path: Path) -> None:
    # It starts Python itself, and looks for its name among the parents of a process.
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *SMALL, f"trainer.devices={devices}"],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=550,
        check=False,
    )  # fmt: skip
    errors = done.stderr
    if devices == 2:
        assert done.returncode == 0, errors[-2000:]
        assert json.loads((tmp_path / "out/results.json").read_text())["steps"] == 1
        return
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: torchrun started 2 processes, and this is a run of 1 (trainer.devices=1 trainer.num_nodes=1): give "
        "trainer.devices=2, or start it without torchrun"
    ]
    assert "exitcode  : 2" in errors  # torchrun's own report
    assert "layermatch/run.py" not in errors  # no traceback of ours
    assert list(tmp_path.iterdir()) == []
