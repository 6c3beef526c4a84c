"""A rank that a shell has left over is no rank; a launcher that really started several processes is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from layermatch import UserError
from layermatch.launch import LAUNCHERS, find_launch

Cli = Callable[..., None]

SMALL = ("run_dir=out", "data.batch_size=4", "data.mu=1", "trainer.max_steps=1", "trainer.precision=32-true")
LEFT_OVER = {
    "torchrun": {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "nowhere.invalid",
        "MASTER_PORT": "1",
    },
    "rank": {"RANK": "1"},
    "local rank": {"LOCAL_RANK": "1", "NODE_RANK": "1"},
    "mpirun": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    "pmi": {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"},
    "a job's script": {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "1"},
    "a step": {
        "SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
    },
    "no number": {"SLURM_PROCID": "", "RANK": "x", "WORLD_SIZE": "2.5"},
}  # fmt: skip


@pytest.fixture(params=LEFT_OVER)
def left_over(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LEFT_OVER[request.param].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # what Lightning takes from them as it is imported


@pytest.mark.usefixtures("left_over")
@pytest.mark.parametrize("devices", [1, 2])
def test_a_left_over_rank_is_no_rank(devices: int) -> None:
    launch = find_launch(devices=devices, num_nodes=1)
    assert (launch.by, launch.rank, launch.local_rank, launch.size) == ("", 0, 0, devices)


@pytest.mark.usefixtures("left_over")
@pytest.mark.parametrize("left_over", ["torchrun", "a step"], indirect=True)
def test_a_run_is_whole_whatever_the_shell_has_left_over(cli: Cli, in_empty_folder: Path) -> None:
    cli(*SMALL, "trainer.accelerator=cpu")
    there = {path.name for path in (in_empty_folder / "out").iterdir()}
    assert there >= {"config.yaml", "split.json", "run.log", "metrics.csv", "results.json", "checkpoints"}


@pytest.mark.slow
def test_lightning_is_imported_whatever_the_shell_has_left_over(tmp_path: Path) -> None:
    environment = os.environ | {"SLURM_PROCID": "1", "RANK": "", "LOCAL_RANK": "x", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "layermatch.run", *SMALL, "trainer.accelerator=cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "run directory: out" in done.stdout
    assert (tmp_path / "out" / "results.json").exists()


#: Starts two processes as a launcher does; each writes what it takes itself for. They are forks, to import once.
STAND_IN = """
import os, sys
import layermatch.launch
program, names, rest = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
for rank in range(2):
    if not os.fork():
        os.environ.update(zip(names, ("2", str(rank), str(rank), "2")))
        os.environ.update(pair.split("=") for pair in rest)
        exec(program)
        sys.exit()
    os.wait()
"""
TELL = """
from layermatch import UserError
from layermatch.launch import environment_of, find_launch
launch = find_launch(devices=2, num_nodes=1)
environment = environment_of(launch)
place = (environment.global_rank(), environment.local_rank(), environment.world_size(), environment.main_address)
print(launch.by, *place)
for devices in (1, 3):
    try:
        find_launch(devices=devices, num_nodes=1)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="this system does not tell a process's parents")
@pytest.mark.parametrize(
    ("number", "command", "more"),
    [(1, "mpirun", ""), (2, "mpiexec.hydra", ""), (3, "slurmstepd: [7.0]", "SLURM_JOB_ID=7")],
)
def test_processes_that_a_launcher_started_know_their_place(
    number: int, command: str, more: str, tmp_path: Path
) -> None:
    """The launcher is a stand-in: what it is called is real, and so are its processes and their variables."""
    launcher = LAUNCHERS[number]
    names = ",".join((launcher.size, launcher.rank, launcher.local_rank, launcher.local_size))
    given = ["SLURM_STEP_ID=0", *([more] if more else [])]
    done = subprocess.run(
        [command, "-c", STAND_IN, TELL, names, *given], executable=sys.executable, cwd=tmp_path,
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done.stderr[-2000:]
    for rank, (place, alone, three) in enumerate((lines[:3], lines[3:])):
        assert place == f"{launcher.name} {rank} {rank} 2 127.0.0.1"
        assert alone == (
            f"{launcher.name} started 2 processes, and this is a run of 1 (trainer.devices=1 trainer.num_nodes=1): "
            f"give trainer.devices=2, or start it without {launcher.name}"
        )
        assert three.endswith(f"give trainer.devices=2, or start it with 3 on each machine by {launcher.name}")


@pytest.mark.parametrize(("name", "value"), [("NODE_RANK", "2"), ("NODE_RANK", "x"), ("GROUP_RANK", "-1")])
def test_the_number_of_a_machine_is_one_of_those(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}='{value}' is not legal: give the number of this machine, from 0 to 1"):
        find_launch(devices=1, num_nodes=2)


def test_another_machine_needs_the_first_ones_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match="NODE_RANK=1 needs MASTER_ADDR and MASTER_PORT"):
        find_launch(devices=1, num_nodes=2)


def test_processes_that_are_started_by_hand_know_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "4711"}.items():
        monkeypatch.setenv(name, value)
    launch = find_launch(devices=1, num_nodes=2)
    assert (launch.by, launch.rank, launch.local_rank, launch.node) == ("hand", 1, 0, 1)
