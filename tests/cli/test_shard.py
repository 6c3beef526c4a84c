"""``python -m layermatch.shard`` and runs on what it writes, as a user meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.data import stand_ins

from layermatch import shard

Cli = Callable[..., None]

RUN = (
    "data=shards", "data.root=shards", "data.image_size=8", "data.batch_size=4", "data.mu=2", "data.window=2",
    "data.num_labels=null", "data.num_val=0", "schedule=constant",
    "model=wrn_small", "trainer=cpu", "trainer.precision=32-true", "algorithm=fixmatch", "data.num_workers=0",
    "algorithm.layer_gradients_every=0", "checkpoint.every_n_steps=3", "eval_every=3",
)  # fmt: skip


@pytest.fixture
def shards(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """18 pictures in five shards, six with a label, and a test set."""
    stand_ins.write_folder(in_empty_folder / "pictures", size=8)
    write(monkeypatch)
    capsys.readouterr()
    return in_empty_folder / "shards"


def write(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    arguments = ["data=folder", "data.root=pictures", "data.image_size=8", "data.num_labels=6", "output=shards"]
    monkeypatch.setattr(sys, "argv", ["layermatch.shard", *arguments, "images_per_shard=4", *more])
    shard.main()


def refused(call: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_command_writes_shards_and_says_so(in_empty_folder: Path) -> None:
    stand_ins.write_folder(in_empty_folder / "pictures", size=8)
    command = [sys.executable, "-m", "layermatch.shard", "data=folder", "data.root=pictures", "data.image_size=8"]
    command += ["output=shards", "images_per_shard=4", "data.num_labels=6"]
    for written in (7, 0):
        done = processes.run(command)
        assert done.returncode == 0, done.stderr
        *_, counts, said = done.stdout.splitlines()
        assert counts == "18 training images, 6 of them with a label, 6 test"
        assert said.startswith(f"7 shards in shards, {written} of them written now (")


def test_a_run_goes_on_in_the_middle_of_a_shard(shards: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli(*RUN, "trainer.max_steps=6", "run_dir=whole", "data.pool_limit=14")
    plan = json.loads(Path("whole/plan.json").read_text())
    assert plan["shards"] == "7, 2 of them mixed at a time"
    assert plan["unlabelled"] == "14 (data.pool_limit=14, drawn with seed 0), the labelled ones among them"
    assert plan["leaks"] == "not looked for, as images are streamed"
    cli(*RUN, "trainer.max_steps=3", "run_dir=parts", "data.pool_limit=14")
    cli(*RUN, "trainer.max_steps=6", "run_dir=parts", "data.pool_limit=14", "ckpt_path=last")
    weights = [
        torch.load(Path(name) / "checkpoints" / "step-0000006.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for changed in ("data.pool_limit=10", "data.pool_limit=null"):
        line = refused(lambda changed=changed: cli(*RUN, changed, "run_dir=parts", "ckpt_path=last",
                                                   "trainer.max_steps=9"), capsys)  # fmt: skip
        assert "is of a run with data.pool_limit=14, this one has data.pool_limit=" in line


def test_bad_shards_are_one_line_or_counted(
    shards: Path, cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shards / "train-000001.tar").unlink()
    line = refused(lambda: cli(*RUN, "trainer.max_steps=1", "run_dir=out"), capsys)
    assert line == (
        "error: 1 of 7 shards below shards cannot be used (train-000001.tar: it is missing, and index.json has it): "
        "put them there again, or data.bad_shards=skip to go without"
    )
    assert not Path("out").exists()
    cli(*RUN, "trainer.max_steps=1", "run_dir=out", "data.bad_shards=skip")
    plan = json.loads(Path("out/plan.json").read_text())
    assert plan["shards"].startswith("6, 2 of them mixed at a time; 1 of 7 left out (train-000001.tar: it is missing")
    line = refused(lambda: write(monkeypatch, "seed=1"), capsys)
    assert line.startswith("error: output=shards holds shards of another data set, or written with other settings")
    line = refused(lambda: write(monkeypatch, "images_per_shard=0"), capsys)
    assert line == "error: images_per_shard=0 is not legal: give a whole number, at least 1"
