"""Two processes leave out the same images and have the same wrong labels as one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from tests import processes
from tests.data import stand_ins

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SETTINGS = (
    "experiment=folder", "data.root=pictures", "data.image_size=8", "data.mu=2", "model=wrn_small",
    "trainer.precision=32-true", "algorithm=fixmatch", "data.num_labels=6",
    "data.num_val=3", "data.leaks=remove", "data.label_noise=0.5", "algorithm.layer_gradients_every=0",
    "trainer.max_steps=1", "eval_every=1",
)  # fmt: skip


def test_two_processes_leave_out_what_one_does(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    stand_ins.write_folder(root, size=8)
    for kind in ("cat", "dog", "fox"):
        shutil.copy(root / "test" / kind / "00001.png", root / "train" / kind / "copy.png")
    found = []
    for name, devices in (
        ("one", ["trainer=cpu", "data.batch_size=4"]),
        ("two", ["trainer=ddp_cpu", "data.batch_size=2"]),
    ):
        words = [sys.executable, "-m", "layermatch.run", f"run_dir={name}", *SETTINGS, *devices]
        done = processes.run(words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        run_dir = tmp_path / name
        results, plan = (json.loads((run_dir / file).read_text()) for file in ("results.json", "plan.json"))
        told = [plan[row] for row in ("labelled", "unlabelled", "wrong labels", "leaks")]
        found.append((results["leaks"], told, (run_dir / "split.json").read_text()))
    one, two = found
    assert one == two
    assert one[1][1] == "15, the labelled ones among them"
