"""Two processes, each with half of every batch, keep the queues and shares that one process keeps of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests import processes
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from layermatch.parts import ClassQueue, PeriodicShares, Step

STEPS = 3


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 3, generator=generator), torch.randint(4, (8,), generator=generator)


def keep(rows: slice) -> dict[str, Tensor]:
    """The states after some steps, of which this process sees some rows."""
    queue, shares = ClassQueue(num_classes=4, num_features=3, length=3), PeriodicShares(num_classes=4, period=2)
    nothing: Any = None
    for number in range(STEPS):
        features, label = batch(number)
        queue.see(features[rows], label[rows])
        shares.see(label[rows])
        for state in (queue, shares):
            state.after_step(Step(nothing, nothing, number, STEPS, lambda *_: None, lambda *_: None))
    return {**queue.state_dict(), **shares.state_dict()}


def rank_main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(keep(slice(4 * rank, 4 * rank + 4)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_keep_what_one_does(tmp_path: Path) -> None:
    processes.stand_by()
    start_processes(rank_main, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    expected = keep(slice(None))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)
