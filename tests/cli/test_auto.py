"""``ckpt_path=auto``: one command starts a run, goes on with it, and has nothing to do when it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.cli.test_sweeps import TINY, write_job
from tests.cli.test_wrong_input import refused
from tests.faults.runs import same_training
from tests.test_config import settings_of

from layermatch.auto_resume import check_same_run
from layermatch.errors import UserError

Cli = Callable[..., None]


@pytest.mark.slow
def test_it_starts_goes_on_and_is_finished(cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run_dir=out", "ckpt_path=auto", *TINY)
    cli("run_dir=whole", "trainer.max_steps=3", *TINY)
    cli(*words, "trainer.max_steps=2")
    cli(*words, "trainer.max_steps=3")
    last = Path("checkpoints/step-0000003.ckpt")
    assert same_training(Path("whole") / last, Path("out") / last)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    capsys.readouterr()
    cli(*words, "trainer.max_steps=3")
    assert capsys.readouterr().out == "out is finished, 3 steps: nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before
    line = refused(cli, capsys, *words, "trainer.max_steps=3", "seed=1")
    assert "run_dir=out holds a run with seed=0, not 1: give another run_dir" in line


@pytest.mark.slow
def test_a_run_that_ended_before_its_first_checkpoint_starts_again(cli: Cli, in_empty_folder: Path) -> None:
    write_job(in_empty_folder / "out")
    (in_empty_folder / "out" / "metrics.csv").write_text("step,of_the_first_start\n1,77\n")
    (in_empty_folder / "out" / "checkpoints").mkdir()
    cli("run_dir=out", "ckpt_path=auto", "trainer.max_steps=1", *TINY[:-1])
    assert json.loads((in_empty_folder / "out" / "results.json").read_text())["steps"] == 1
    assert "of_the_first_start" not in (in_empty_folder / "out" / "metrics.csv").read_text()


def test_it_needs_a_directory_of_a_fixed_name(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give run_dir=runs/NAME" in refused(cli, capsys, "ckpt_path=auto")


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "split.json"])
def test_files_of_the_users_are_not_overwritten(
    name: str, cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_empty_folder / "mine").mkdir()
    (in_empty_folder / "mine" / name).write_text("precious: 1")
    line = refused(cli, capsys, "run_dir=mine", "ckpt_path=auto", "trainer.max_steps=1")
    assert line.endswith(f"({name}): give another run_dir")
    assert (in_empty_folder / "mine" / name).read_text() == "precious: 1"


def test_damaged_checkpoints_are_not_started_over(
    cli: Cli, in_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(in_empty_folder / "out")
    (in_empty_folder / "out" / "checkpoints").mkdir()
    (in_empty_folder / "out" / "checkpoints" / "step-0000001.ckpt").write_bytes(b"cut short")
    line = refused(cli, capsys, "run_dir=out", "ckpt_path=auto", "trainer.max_steps=1")
    assert "ckpt_path=auto: no checkpoint in out/checkpoints is valid" in line


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        (["trainer.max_steps=2"], ["trainer.max_steps=3"], True),
        (["trainer.max_steps=3"], ["trainer.max_steps=2"], False),
        (["data.batch_size=16"], ["data.batch_size=8", "trainer.devices=2"], True),
        (["data.batch_size=16"], ["data.batch_size=8"], False),
        (["data.num_workers=0"], ["data.num_workers=2"], True),
        (
            ["layerwise=avg_clustering", "layerwise.weight=0.5"],
            ["layerwise=avg_clustering", "layerwise.weight=0.25"],
            False,
        ),
        (["algorithm=layermatch"], ["algorithm=fixmatch"], False),
    ],
)
def test_what_may_change_in_a_finished_run(before: list[str], now: list[str], is_same: bool, tmp_path: Path) -> None:
    write_job(tmp_path / "out", *before)
    settings = settings_of(*now)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text()) != settings
    if is_same:
        check_same_run(tmp_path / "out", settings)
    else:
        with pytest.raises(UserError, match="holds a run with"):
            check_same_run(tmp_path / "out", settings)
