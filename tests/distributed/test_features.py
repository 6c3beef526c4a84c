"""Two processes that learn from kept features do what one does, and compute them once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.cli.test_features import PLUGIN, SETTINGS
from tests.data.stand_ins import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def test_two_processes_are_one(tmp_path: Path) -> None:
    (tmp_path / "frozen_plugin.py").write_text(PLUGIN)
    write_folder(tmp_path / "pictures", size=20, test_per_class=4)
    words = [word for word in SETTINGS if not word.startswith(("trainer=", "data.batch_size"))]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    outs = {}
    for name, more in {
        "two": ("trainer=ddp_cpu", "trainer.devices=2", "data.batch_size=2"),
        "one": ("trainer=cpu", "data.batch_size=4"),
    }.items():
        done = processes.run(
            [sys.executable, "-m", "layermatch.run", f"run_dir={name}", *words, cache, *more], cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        outs[name] = done.stdout
    assert outs["two"].count("views computed (") == 1
    assert "views computed (" not in outs["one"]
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "step-0000004.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    fresh = one["network.classifier.weight"] - one["ema.network.classifier.weight"]
    assert fresh.abs().max() > 1e-3  # something was learnt
    for name, value in one.items():
        if name.startswith(("network.", "ema.network.")):
            torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-5)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["test"] == results[1]["test"]
