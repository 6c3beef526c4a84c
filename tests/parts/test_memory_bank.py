"""The banks of embeddings: what they hold after steps, when they wrap, and on two ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import given
from tests.processes import Process
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks import Network
from layermatch.parts import LabelledBank, MemoryBank, Problem, Step, StepState

PROBLEM = Problem(3, 8, 6, 20, (3, 32, 32), 100)


def step_of(number: int = 0) -> Step:
    return given.step_of(Network(nn.Identity(), num_features=2, num_classes=3), number)


def drawn(num: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(num, 2, generator=generator)
    return keys / keys.norm(dim=1, keepdim=True), torch.randn(num, 3, generator=generator).softmax(1)


def state_of(bank: StepState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in bank.state_dict().items()}


@pytest.mark.parametrize("sizes", [(3, 4), (5, 5, 5), (7,), (20, 1), (1, 2, 3, 4, 5)])
def test_the_ring_holds_the_last_images_where_they_were_written(sizes: tuple[int, ...]) -> None:
    bank = MemoryBank(rows=7, width=2, problem=PROBLEM)
    expected, position = [None] * 7, 0
    for seed, size in enumerate(sizes):
        keys, probs = drawn(size, seed)
        bank.see(keys, probs)
        bank.after_step(step_of())
        for key, prob in zip(keys, probs, strict=True):
            expected[position % 7] = (key, prob)
            position += 1
        for row, written in enumerate(expected):
            torch.testing.assert_close(bank.keys[row], torch.zeros(2) if written is None else written[0])
            torch.testing.assert_close(bank.probs[row], torch.zeros(3) if written is None else written[1])
        assert bool(bank.is_full) == (position >= 7)


def test_the_batches_of_a_step_go_in_when_it_is_applied_and_not_at_all_when_it_is_not() -> None:
    bank, other = (MemoryBank(rows=7, width=2, problem=PROBLEM) for _ in range(2))
    keys, probs = drawn(6, 0)
    before = state_of(bank)
    bank.see(keys, probs)
    bank.discard_step()
    bank.see(keys[:2], probs[:2])
    bank.see(keys[2:], probs[2:])
    assert all(torch.equal(value, before[name]) for name, value in state_of(bank).items())
    bank.after_step(step_of())
    other.see(keys, probs)
    other.after_step(step_of())
    assert all(torch.equal(value, state_of(other)[name]) for name, value in state_of(bank).items())
    # A checkpoint has it all.
    resumed = MemoryBank(rows=7, width=2, problem=PROBLEM)
    resumed.load_state_dict(bank.state_dict())
    for one in (bank, resumed):
        one.see(*drawn(4, 1))
        one.after_step(step_of())
    assert all(torch.equal(value, state_of(bank)[name]) for name, value in state_of(resumed).items())


def test_it_has_no_more_rows_than_there_are_images() -> None:
    assert MemoryBank(rows=2560, width=2, problem=PROBLEM).keys.shape == (26, 2)
    with pytest.raises(UserError, match="rows=0"):
        MemoryBank(rows=0, width=2, problem=PROBLEM)
    with pytest.raises(UserError, match="width=0"):
        LabelledBank(width=0, problem=PROBLEM)


@pytest.mark.parametrize(("first", "number", "ready"), [(None, 0, False), (0, 0, True), (2, 1, False), (2, 2, True)])
def test_it_is_used_from_a_step_on_or_when_it_is_full(first: int | None, number: int, ready: bool) -> None:
    for bank in (MemoryBank(rows=4, width=2, problem=PROBLEM), LabelledBank(width=2, problem=PROBLEM)):
        assert bank.is_ready(step_of(number), first).item() is ready


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_a_labelled_image_has_one_row_that_moves_when_it_is_seen(decay: float) -> None:
    bank = LabelledBank(width=2, problem=PROBLEM, decay=decay)
    start = bank.keys.double().numpy().copy()
    np.testing.assert_allclose(np.linalg.norm(start, axis=1), 1, rtol=1e-6)
    keys, _ = drawn(4, 3)
    label, indices = torch.tensor([2, 0, 1, 2]), torch.tensor([5, 1, 2, 5])  # number 5 is there twice
    bank.see(keys, label=label, indices=indices)
    bank.after_step(step_of())
    shown = {5: (keys[0] + keys[3]) / 2, 1: keys[1], 2: keys[2]}
    for row in range(6):
        expected = start[row]
        if row in shown:
            moved = decay * start[row] + (1 - decay) * shown[row].double().numpy()
            expected = moved / np.linalg.norm(moved)
        np.testing.assert_allclose(bank.keys[row].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert bank.label.tolist() == [0, 0, 1, 0, 0, 2]
    assert bank.is_known.tolist() == [False, True, True, False, False, True]
    before = state_of(bank)
    bank.see(keys, label=label, indices=torch.tensor([0, 3, 4, 4]))
    bank.discard_step()
    assert all(torch.equal(value, before[name]) for name, value in state_of(bank).items())
    assert not bank.is_full
    bank.see(keys, label=label, indices=torch.tensor([0, 3, 4, 4]))
    bank.after_step(step_of())
    assert bank.is_full


RANKS = """
import sys, torch
import torch.distributed as dist
from layermatch.parts import LabelledBank, MemoryBank, Problem
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
shown = torch.load(f"{folder}/shown.pt")
problem = Problem(3, 8, 6, 20, (3, 32, 32), 100)
ring, labelled = MemoryBank(rows=7, width=2, problem=problem), LabelledBank(width=2, problem=problem)
labelled.load_state_dict(shown["start"])
for keys, probs, label, indices in shown["steps"]:
    half = slice(rank * len(keys) // 2, (rank + 1) * len(keys) // 2)
    ring.see(keys[half], probs[half])
    labelled.see(keys[half], label=label[half], indices=indices[half])
    for bank in (ring, labelled):
        bank.after_step(None)
torch.save([ring.state_dict(), labelled.state_dict()], f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_ranks_hold_what_one_does(tmp_path: Path) -> None:
    ring, labelled = MemoryBank(rows=7, width=2, problem=PROBLEM), LabelledBank(width=2, problem=PROBLEM)
    start = state_of(labelled)
    steps = [(*drawn(4, seed), torch.tensor([2, 0, 1, 2]), torch.tensor([5, 1, 2 + seed, 5])) for seed in range(3)]
    torch.save({"start": start, "steps": steps}, tmp_path / "shown.pt")
    for keys, probs, label, indices in steps:
        ring.see(keys, probs)
        labelled.see(keys, label=label, indices=indices)
        for bank in (ring, labelled):
            bank.after_step(step_of())
    ranks = [Process([sys.executable, "-c", RANKS, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.communicate(timeout=550)[1] for process in ranks] == ["", ""]
    assert [process.returncode for process in ranks] == [0, 0]
    for rank in range(2):
        for found, expected in zip(torch.load(tmp_path / f"{rank}.pt"), (ring, labelled), strict=True):
            assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
