"""One batch of all devices, gradients in bf16, and a job script of SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests import processes
from tests.cli.test_wrong_input import refused
from tests.conftest import digits_data
from tests.test_config import settings_of

from layermatch import UserError
from layermatch.runs.identity import images_of_step, may_change, setting_of
from layermatch.runs.settings import flatten

Cli = Callable[..., None]
HERE = Path(__file__).parent
SMALL = (
    "data.batch_size=8", "data.mu=1", "data.num_val=20", "algorithm.layer_gradients_every=0", "schedule=constant",
    "trainer.precision=32-true", "logger=none",
)  # fmt: skip


@pytest.mark.distributed
def test_gradients_in_bf16_are_the_same_on_every_rank_and_near_those_in_full(tmp_path: Path) -> None:
    done = processes.run(
        [sys.executable, str(HERE / "exchange_script.py"), str(tmp_path)], cwd=tmp_path, ranks=2
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    full, rounded, other = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("full-0", "bf16-0", "bf16-1")
    )
    learnt = [name for name in full if full[name].is_floating_point() and "running" not in name]
    assert all(torch.equal(rounded[name], other[name]) for name in learnt)
    apart = torch.cat([(rounded[name] - full[name]).flatten() for name in learnt])
    assert apart.abs().max() > 0  # it was rounded at all
    assert apart.norm() < 0.01 * torch.cat([full[name].flatten() for name in learnt]).norm()


def test_devices_share_a_batch_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def indices(rank: int, world_size: int) -> list[int]:
        data = digits_data(batch_size=8, batch_of="all")
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, max_steps=-1, lightning_module=None)  # type: ignore[assignment]
        return [int(index) for index in data.training_steps()[3].unlabelled.indices]

    whole = indices(0, 1)
    assert [len(indices(rank, 2)) for rank in range(2)] == [8, 8]
    assert (
        sorted(whole)
        == sorted(indices(0, 2) + indices(1, 2))
        == sorted(chain(*(indices(rank, 4) for rank in range(4))))
    )
    with pytest.raises(UserError, match="batch_size=8 is not legal with batch_of=all on 3 devices: give a multiple"):
        digits_data(batch_size=8, batch_of="all").batch_on_each(3)


def test_a_batch_of_all_is_the_same_run_on_any_number_of_devices() -> None:
    one, two, each, none = (
        settings_of("data.batch_size=8", *words)
        for words in (
            (),
            ("trainer=ddp_cpu", "data.batch_of=all"),
            ("trainer=ddp_cpu", "data.batch_size=4"),
            ("trainer=ddp_cpu",),
        )
    )
    assert setting_of(one) == setting_of(two) == setting_of(each) != setting_of(none)
    assert images_of_step(flatten(two)).startswith("1 x 8 labelled")
    assert may_change("data.batch_of", flatten(one), flatten(two))
    assert not may_change("data.batch_of", flatten(none), flatten(two))


def test_devices_that_cannot_share_a_batch_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from layermatch import run

    monkeypatch.chdir(tmp_path)

    def cli(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["layermatch.run", *words])
        run.main()

    line = refused(cli, capsys, "run_dir=out", "trainer=ddp_cpu", "data.batch_of=all", "data.batch_size=5")
    assert line == (
        "error: data.batch_size=5 is not legal with data.batch_of=all on 2 devices: give a multiple of 2, or "
        "data.batch_of=device"
    )
    assert "choose one of device, all" in refused(cli, capsys, "run_dir=out", "data.batch_of=each")
    assert "choose one of full, bf16" in refused(cli, capsys, "run_dir=out", "trainer.exchange=fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="this system does not tell a process's parents")
def test_a_step_of_slurm_is_stopped_by_its_signal_and_goes_on_when_it_is_queued_again(tmp_path: Path) -> None:
    """By the variables of the launcher alone, in one command for both starts."""
    words = (
        "run_dir=out", "ckpt_path=auto", "trainer=ddp_cpu", "data.batch_of=all", "checkpoint.every_n_steps=1", *SMALL
    )  # fmt: skip
    done = subprocess.run(
        ["slurmstepd: [70123.0]", str(HERE / "srun_script.py"), "out", *words], executable=sys.executable,
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["stopped"] == [75, 0]  # srun takes the greater one
    assert found["again"] == [0, 0]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["steps"] == found["at"] + 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[W")]
    assert lines == [
        f"stopped by a signal to another process at step {found['at']:,}, checkpoint out/checkpoints/"
        f"step-{found['at']:07}.ckpt: go on with ckpt_path=last"
    ]
    assert "8 labelled + 8 unlabelled (2 devices x 1 accumulated), data.batch_of=all" in done.stdout


def test_the_shell_of_a_job_of_slurm_is_one_process_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    from layermatch import run

    shell = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "4", "SLURM_NNODES": "2",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_NODELIST": "n[1-2]",
        "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "2(x2)",
    }  # fmt: skip
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "srun").write_text("#!/bin/sh\nexit 1\n")  # Lightning looks for it
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["layermatch.run", "run_dir=out", "trainer=cpu", "trainer.max_steps=1", *SMALL])
    run.main()
    printed = capsys.readouterr()
    assert "1 x CPU" in printed.out
    assert printed.err == ""
    assert not [warning for warning in recwarn if "srun" in str(warning.message)]
    assert (tmp_path / "out" / "results.json").exists()
