"""Pictures by a table, trained on by one process and by two: a run that goes on is the same to the bit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import processes
from tests.data.stand_ins import write_folder
from tests.faults.runs import same_training

from layermatch.checkpoints import read_checkpoint
from layermatch.data.manifest import Row, write_manifest

pytestmark = pytest.mark.distributed

SMALL = (
    "experiment=folder", "data=manifest", "data.manifest=labels.csv", "data.root=pictures", "data.image_size=8",
    "data.mu=2", "data.mean=null", "data.std=null", "data.storage=lazy", "data.num_workers=0", "model=wrn_small",
    "trainer.log_every=1", "trainer.precision=32-true", "eval_every=2", "checkpoint.every_n_steps=2",
    "algorithm.layer_gradients_every=0", "pseudo_labels.threshold=0.3", "logger=none",
)  # fmt: skip
RANKS = {1: ("trainer=cpu", "data.batch_size=4"), 2: ("trainer=ddp_cpu", "data.batch_size=2")}


def write_table(folder: Path) -> None:
    """36 pictures to train on, every third with a label, and 9 to validate and to test on each."""
    write_folder(folder / "pictures", size=8, per_class=15, test_per_class=3)
    rows = []
    for number, path in enumerate(sorted((folder / "pictures").rglob("*.png"))):
        place = path.relative_to(folder / "pictures")
        part = "test" if place.parts[0] == "test" else "val" if number % 5 == 0 else "train"
        label = place.parts[1] if part != "train" or number % 3 else ""
        rows.append(Row(place.as_posix(), label, part))
    order = np.random.default_rng(0).permutation(len(rows))
    write_manifest(folder / "labels.csv", [rows[number] for number in order])


def train(folder: Path, name: str, *words: str, ranks: int) -> None:
    command = [sys.executable, "-m", "layermatch.run", f"run_dir={name}", *SMALL, *RANKS[ranks], *words]
    done = processes.run(command, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("ranks", RANKS)
def test_a_run_by_a_table_goes_on_to_the_bit(ranks: int, tmp_path: Path) -> None:
    write_table(tmp_path)
    train(tmp_path, "whole", "trainer.max_steps=4", ranks=ranks)
    train(tmp_path, "rest", "trainer.max_steps=4", "ckpt_path=whole/checkpoints/step-0000002.ckpt", ranks=ranks)
    whole, rest = (tmp_path / name / "checkpoints" / "step-0000004.ckpt" for name in ("whole", "rest"))
    assert same_training(whole, rest)
    first = read_checkpoint(tmp_path / "whole/checkpoints/step-0000002.ckpt")["state_dict"]
    last = read_checkpoint(rest)["state_dict"]
    assert not torch.equal(first["network.classifier.weight"], last["network.classifier.weight"])
    tests = [json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("whole", "rest")]
    assert tests[0] == tests[1]
