"""Two processes predict the pool and learn its labels as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.distributed.staged import train

SCRIPT = Path(__file__).parent / "staged.py"


@pytest.mark.distributed
def test_two_processes_learn_the_same_labels_as_one(tmp_path: Path) -> None:
    train(devices=1, batch_size=8, out=tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "2", "4", str(tmp_path)],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=480, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-3)
    table = one["method.table.logits"]
    assert table.shape == (1388, 10)
    assert table.std() > 0.1
