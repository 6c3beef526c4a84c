"""Two processes with a half of each batch remember what one with the whole batch does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import processes
from tests.policies import two_processes
from torch.multiprocessing.spawn import start_processes


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_one(tmp_path: Path) -> None:
    processes.stand_by()
    start_processes(two_processes.run, args=(tmp_path,), nprocs=2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, policy in two_processes.policies().items():
        whole = two_processes.train(policy, slice(None))
        assert whole["state"]
        for key, value in whole["state"].items():
            assert torch.equal(first[name]["state"][key], second[name]["state"][key])
            torch.testing.assert_close(first[name]["state"][key], value)
        weights = torch.cat([first[name]["weights"], second[name]["weights"]], dim=1)
        assert torch.equal(weights, whole["weights"])
        assert 0 < weights.mean() < 1
