"""What the machine or its environment does not allow is one line, before anything is written."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from tests import processes
from tests.cli.test_wrong_input import refused
from tests.data import stand_ins

Cli = Callable[..., None]


def test_batchnorm_is_synchronised_on_gpus_only(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(cli, capsys, "run_dir=out", "trainer=ddp_cpu", "trainer.sync_batchnorm=true")
    assert "trainer.sync_batchnorm=true needs GPUs, and this run is on CPU" in line
    assert line.endswith("give trainer.sync_batchnorm=false")
    assert list(in_empty_folder.iterdir()) == []


@pytest.mark.parametrize("offline", ["auto", "true"])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WANDB_MODE", "typo", "'online', 'offline'"),
        ("WANDB_BASE_URL", "nowhere", "valid URL"),
        ("WANDB_SILENT", "maybe", "valid boolean"),
        ("WANDB__SERVICE_WAIT", "soon", "valid number"),
        ("WANDB_RUN_ID", "a/b", "Run ID cannot contain"),
    ],
)
def test_what_wandb_does_not_take(
    name: str,
    value: str,
    words: str,
    offline: str,
    cli: Cli,
    in_empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb.teardown()  # it reads its environment once
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv(name, value)
    line = refused(cli, capsys, "logger=wandb", f"logger.offline={offline}", "run_dir=out")
    assert words in line
    assert name in line
    assert "correct" in line
    assert list(in_empty_folder.iterdir()) == []


#: As after ``ulimit -n 64``.
LIMITED = """
import resource
from layermatch.run import main
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
main()
"""


@pytest.mark.slow
def test_too_few_open_files_for_the_readers(tmp_path: Path) -> None:
    stand_ins.write_folder(tmp_path / "pictures")
    words = (
        "run_dir=out", "experiment=folder", "data.root=pictures", "data.num_workers=4", "data.storage=lazy",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    done = processes.run([sys.executable, "-c", LIMITED, *words], cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "data.num_workers=4 needs about" in line
    # How many fit depends on the files that are open already.
    assert re.search(r"the system allows 64: give data\.num_workers=[01], or a higher limit \(ulimit -n 256\)$", line)
    assert not (tmp_path / "out").exists()
