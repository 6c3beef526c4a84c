"""Files that outgrow the room that there is: one line, nothing half-written, and the same command goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.predict.conftest import TinyRun
from tests.room import room_for

Command = Callable[..., int]


@pytest.mark.parametrize("name", ["ants.onnx", "ants.pt2", "ants.safetensors"])
def test_an_export_leaves_nothing(
    name: str, tiny_run: TinyRun, command: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    with room_for(50_000):
        assert command("export", f"ckpt_path={tiny_run.run_dir}", f"output={name}", "hub_folder=hub") == 1
    error = capfd.readouterr().err
    assert error.endswith(f"{name}: File too large: nothing was exported\n")
    assert error.startswith("error: cannot write ")
    assert error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_features_that_find_no_room_lose_no_prediction(
    tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"ckpt_path={tiny_run.run_dir}", f"input={tiny_run.test}", "device=cpu", "batch_size=4", "num_workers=0")
    assert command("predict", *given, "output=whole.csv", "features=whole.npy") == 0
    capsys.readouterr()
    with room_for(Path("whole.npy").stat().st_size // 2):
        assert command("predict", *given, "output=labels.csv", "features=labels.npy") == 1
    error = capsys.readouterr().err
    assert "File too large: what is done is kept: make room, then start the same command again to go on" in error
    assert error.count("\n") == 1
    there = {"labels.csv.unfinished", "whole.csv", "whole.npy"}
    assert {path.name for path in Path().iterdir()} == there | {path.name for path in Path().glob("whole.errors.csv")}
    kept = {path: path.stat().st_mtime_ns for path in Path("labels.csv.unfinished/chunks").iterdir()}
    assert len(kept) == len({path.name for path in kept}) > 2
    assert command("predict", *given, "output=labels.csv", "features=labels.npy") == 0
    for ending in ("csv", "npy"):
        assert Path(f"labels.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()
    assert not Path("labels.csv.unfinished").exists()
