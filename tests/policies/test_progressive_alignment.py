"""CReST+'s alignment against a loop in numpy, step by step; its state."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from layermatch.errors import UserError
from layermatch.parts import Problem, Step
from layermatch.policies import Predictions, ProgressiveAlignment

COUNTS, STEPS, N = (40, 10, 2), 12, 30
PROBLEM = Problem(3, 8, sum(COUNTS), 100, (3, 32, 32), STEPS, COUNTS)


def make(threshold: float = 0.6, **options: Any) -> ProgressiveAlignment:
    policy = ProgressiveAlignment(threshold=threshold, queue=4, generations=3, smallest_power=0.25, **options)
    policy.prepare(PROBLEM)
    return policy.double()


def predictions(seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(N, 3, dtype=torch.float64, generator=generator) + torch.tensor([1.0, 0.0, -1.0])).softmax(
        1
    )
    return Predictions(probs, torch.arange(N))


def apply_step(policy: ProgressiveAlignment, number: int) -> None:
    nothing: Any = None
    step = Step(nothing, nothing, number, STEPS, lambda *_: None, lambda *_: None)
    for state in (policy, policy.average):
        state.after_step(step)


@pytest.mark.parametrize("threshold", [1e-6, 0.6, 1.0])  # all count, some, none
def test_every_step_is_that_of_the_paper(threshold: float) -> None:
    policy = make(threshold)
    buffer = deque([np.full(3, 1 / 3)] * 4, maxlen=4)
    differ = 0
    for number in range(STEPS):
        generation = number // 4  # 12 steps in 3 generations
        power = [1.0, 0.625, 0.25][generation]
        target = np.array(COUNTS) ** power / (np.array(COUNTS) ** power).sum()
        np.testing.assert_allclose(policy.target.numpy(), target, rtol=1e-6)
        seen = predictions(number)
        found = policy(seen)
        average = np.mean(buffer, axis=0)
        for u, row in enumerate(seen.probs_weak.numpy()):
            aligned = row * (1e-6 + target) / (1e-6 + average)
            aligned /= aligned.sum()
            assert found.label[u] == found.target[u] == aligned.argmax()
            assert found.confidence[u].item() == pytest.approx(aligned.max(), rel=1e-6)
            assert found.weight[u] == float(aligned.max() >= threshold)
            differ += int(aligned.argmax() != row.argmax())
        buffer.append(seen.probs_weak.numpy().mean(axis=0))
        apply_step(policy, number)
    assert differ > 0


def test_a_step_that_is_not_applied_leaves_it_as_it_was() -> None:
    policy = make()
    policy(predictions(0))
    apply_step(policy, 0)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy(predictions(1))
    for state in (policy, policy.average):
        state.discard_step()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_accumulated_batches_are_one_step() -> None:
    policy, whole = make(), make()
    for half in (slice(None, N // 2), slice(N // 2, None)):
        policy(predictions(0)._replace(probs_weak=predictions(0).probs_weak[half]))
    whole(predictions(0))
    for each in (policy, whole):
        apply_step(each, 0)
    torch.testing.assert_close(policy.average.value, whole.average.value)


def test_it_needs_the_labels_of_each_class() -> None:
    with pytest.raises(UserError, match=r"needs Problem\.label_counts"):
        ProgressiveAlignment().prepare(Problem(3, 8, 4, 100, (3, 32, 32), 100))


@pytest.mark.parametrize("option", [{"generations": 0}, {"smallest_power": 1.5}, {"queue": 0}, {"threshold": 0}])
def test_values_that_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(option))}="):
        ProgressiveAlignment(**option)
