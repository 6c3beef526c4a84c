"""Two processes with half the batch each do what one with the whole does: every method, policy, stage and episode.

The choices are those of the configuration: a new file there is found here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.every_choice import RUNS, train
from tests.processes import Process
from torch import Tensor

# The first of them waits for all runs, which take some minutes where others use the cores.
pytestmark = [
    pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(1500), pytest.mark.xdist_group("every_choice"),
]  # fmt: skip

SCRIPT = Path(__file__).with_name("every_choice.py")

#: Losses that are not a mean over images, and that each process takes of its own images; see the NOTE of each.
OF_OWN_IMAGES = {
    "algorithm=comatch": "the graph joins images of one process",
    "algorithm=freematch": "the fairness loss compares means over the images of one process",
    "pseudo_labels=freematch": "the fairness loss compares means over the images of one process",
}

Runs = dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """By choice: one process with 8 labelled images a step, and both of two with 4 each."""
    out = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(SCRIPT), "2", "4", str(out)]
    two = Process(command, cwd=out, ranks=2)
    try:
        for choice in RUNS:  # meanwhile
            train(choice, devices=1, batch_size=8, out=out)
        _, errors = two.communicate(timeout=1200)
    finally:
        two.terminate()
    assert two.returncode == 0, errors[-3000:]
    return {choice: tuple(torch.load(out / f"{choice}-{n}.pt") for n in ("1-0", "2-0", "2-1")) for choice in RUNS}


def far(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of what differs by more than the order of sums explains."""
    pairs = ((name, value.double(), expected[name].double()) for name, value in found.items())
    return [name for name, value, other in pairs if not torch.allclose(value, other, rtol=1e-3, atol=1e-4)]


@pytest.mark.parametrize("choice", RUNS)
class TestTwoProcesses:
    def test_both_hold_the_same_to_the_bit(self, choice: str, runs: Runs) -> None:
        _, first, second = runs[choice]
        assert first["state"].keys() == second["state"].keys()
        assert not [name for name, value in first["state"].items() if not torch.equal(value, second["state"][name])]
        assert first["latest"] == second["latest"]

    def test_they_learn_what_one_does(self, choice: str, runs: Runs) -> None:
        one, first, _ = runs[choice]
        assert not far(one["before"], first["before"])
        moved = one["state"]["network.classifier.weight"] - one["before"]["network.classifier.weight"]
        assert moved.abs().max() > 1e-3  # something was learnt at all
        assert one["drew"] == first["drew"]
        if one["drew"]:
            return  # each process draws its own
        # What is on the list differs indeed: else it need not be there.
        assert bool(far(first["state"], one["state"])) == (choice in OF_OWN_IMAGES)


def test_every_image_of_the_pool_is_predicted(runs: Runs) -> None:
    """Where a stage begins, by two processes that have an uneven part each."""
    for of_process in runs["stages"]:
        table = of_process["state"]["method.table.logits"]
        assert len(table) == 1437
        assert table.std(dim=1).min() > 0
