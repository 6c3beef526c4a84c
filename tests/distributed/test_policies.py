"""Two processes that each see half of a batch decide as one that sees all of it, and keep the same state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from tests.distributed.policies_script import decide
from tests.processes import Process

SCRIPT = Path(__file__).parent / "policies_script.py"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_decide_as_one(tmp_path: Path) -> None:
    port = str(find_free_network_port())
    processes = [
        Process([sys.executable, str(SCRIPT), str(rank), str(tmp_path), port], cwd=tmp_path) for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=550)
        assert process.returncode == 0, errors[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    alone = decide(0, 1)
    for name, steps in alone.items():
        accepted = 0.0
        for one, *halves in zip(steps, first[name], second[name], strict=True):
            targets, weights, states = zip(*halves, strict=True)
            assert torch.cat(targets).equal(one[0]), name
            torch.testing.assert_close(torch.cat(weights), one[1], msg=name)
            for key, value in one[2].items():
                torch.testing.assert_close(states[0][key], value, rtol=1e-12, atol=1e-12, msg=f"{name}: {key}")
                assert states[0][key].equal(states[1][key]), (name, key)
            accepted += one[1].sum().item()
        assert 0 < accepted < 60, name
