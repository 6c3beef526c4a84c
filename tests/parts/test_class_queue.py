"""The queues of the classes and the shares of a period, against lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from layermatch.errors import UserError
from layermatch.parts import ClassQueue, PeriodicShares, Step, StepState


def apply_step(state: StepState, number: int = 0) -> None:
    nothing: Any = None
    state.after_step(Step(nothing, nothing, number, 100, lambda *_: None, lambda *_: None))


def batch(seed: int, *, size: int = 7, num_classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(num_classes - 1, (size,), generator=generator)  # the last class is never there
    return torch.randn(size, 3, dtype=torch.float64, generator=generator), label


def means(lists: list[list[np.ndarray]], length: int) -> np.ndarray:
    return np.stack([np.mean(entries[-length:], axis=0) if entries else np.zeros(3) for entries in lists])


@pytest.mark.parametrize("length", [1, 3, 100])
@pytest.mark.parametrize("per_step", [1, 3])
def test_prototypes_are_the_means_of_the_last_features(length: int, per_step: int) -> None:
    queue = ClassQueue(num_classes=4, num_features=3, length=length).double()
    lists: list[list[np.ndarray]] = [[] for _ in range(4)]
    for number in range(12):
        for part in range(per_step):
            features, label = batch(10 * number + part)
            queue.see(features, label)
            for z, k in zip(features.numpy(), label.tolist(), strict=True):
                lists[k].append(z)
            np.testing.assert_allclose(queue.prototypes.numpy(), means(lists, length), rtol=1e-12, atol=1e-12)
        apply_step(queue, number)
        np.testing.assert_allclose(queue.prototypes.numpy(), means(lists, length), rtol=1e-12, atol=1e-12)
    assert queue.prototypes[3].tolist() == [0, 0, 0]


def test_a_step_that_is_not_applied_leaves_the_queue_as_it_was() -> None:
    queue = ClassQueue(num_classes=4, num_features=3, length=2).double()
    queue.see(*batch(0))
    apply_step(queue)
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    queue.see(*batch(1))
    assert not torch.equal(queue.prototypes, before["entries"].mean(dim=1))
    queue.discard_step()
    assert all(torch.equal(value, before[name]) for name, value in queue.state_dict().items())


def test_a_batch_in_two_parts_is_the_whole_batch() -> None:
    whole, parts = (ClassQueue(num_classes=4, num_features=3, length=3).double() for _ in range(2))
    features, label = batch(0, size=12)
    whole.see(features, label)
    for rows in (slice(None, 5), slice(5, None)):
        parts.see(features[rows], label[rows])
    for queue in (whole, parts):
        apply_step(queue)
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("period", [1, 3])
def test_shares_are_those_of_the_last_period(period: int) -> None:
    shares = PeriodicShares(num_classes=4, period=period)
    counts, expected = np.zeros(4), np.zeros(4)
    for number in range(8):
        for part in range(2):
            label = batch(10 * number + part)[1]
            shares.see(label)
            counts += np.bincount(label.numpy(), minlength=4)
        np.testing.assert_allclose(shares.value.numpy(), expected, rtol=1e-6)
        apply_step(shares, number)
        if (number + 1) % period == 0:
            expected, counts = counts / counts.sum(), np.zeros(4)
        np.testing.assert_allclose(shares.value.numpy(), expected, rtol=1e-6)


def test_a_step_that_is_not_applied_is_not_counted() -> None:
    shares = PeriodicShares(num_classes=3, period=2)
    shares.see(torch.tensor([0, 1]))
    shares.discard_step()
    shares.see(torch.tensor([2]))
    apply_step(shares)
    assert shares.counts.tolist() == [0, 0, 1]


@pytest.mark.parametrize("length", [0, -1, 2.5, None])
def test_lengths_that_are_refused(length: Any) -> None:
    with pytest.raises(UserError, match=r"^queue="):
        ClassQueue(num_classes=2, num_features=2, length=length)
    with pytest.raises(UserError, match=r"^period="):
        PeriodicShares(num_classes=2, period=length)
