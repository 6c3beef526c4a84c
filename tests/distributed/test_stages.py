"""Two processes learn by stages and by episodes as one does: the pool's labels, and the mean of models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.distributed.staged import RUNS, train

SCRIPT = Path(__file__).parent / "staged.py"


@pytest.mark.distributed
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    for name in RUNS:
        train(name, devices=1, batch_size=8, out=tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2", "4", str(tmp_path)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=480, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for run in RUNS:
        one, first, second = (torch.load(tmp_path / f"{run}-{n}.pt", weights_only=True) for n in ("1-0", "2-0", "2-1"))
        for name, value in one.items():
            assert torch.equal(first[name], second[name]), (run, name)
            torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-3)
        if run == "r2d2":
            table = one["method.table.logits"]
            assert table.shape == (1388, 10)
            assert table.std() > 0.1
