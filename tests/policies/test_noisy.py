"""Injected errors: their rate, that nothing but (seed, step, sample) decides them, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.errors import UserError
from layermatch.functional.streams import uniforms
from layermatch.networks import wrn_small
from layermatch.parts import Problem, Step
from layermatch.policies import FixedThreshold, NoisyThreshold, Predictions

NUM_CLASSES, POOL = 5, 4000


def make(
    *, noise: float = 0.3, noise_seed: int = 0, num_classes: int = NUM_CLASSES, pool: int = POOL
) -> NoisyThreshold:
    policy = NoisyThreshold(threshold=0.5, noise=noise, noise_seed=noise_seed)
    policy.prepare(
        Problem(
            num_classes=num_classes,
            num_features=8,
            num_labelled=4,
            num_unlabelled=pool,
            image_shape=(3, 32, 32),
            max_steps=100,
        )
    )
    return policy


def apply_step(*policies: NoisyThreshold, number: int = 0) -> None:
    """The end of an optimizer step, as the training module has it."""
    network = wrn_small(num_classes=2)
    step = Step(network, network, number, 100, lambda means, ratios=None: None, lambda name, tensor: None)
    for policy in policies:
        policy.after_step(step)


def probabilities(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num)
    return (3 * torch.randn(num, NUM_CLASSES, generator=generator)).softmax(dim=1)


def test_errors_come_at_their_rate_and_to_every_other_class_alike() -> None:
    probs, index = probabilities(POOL), torch.arange(POOL)
    clean = FixedThreshold(threshold=0.5)(Predictions(probs, index))
    found = make(noise=0.3)(Predictions(probs, index))
    step = (found.label - clean.label) % NUM_CLASSES
    counts = torch.bincount(step, minlength=NUM_CLASSES) / POOL
    # Five standard deviations of a share over 4,000 samples.
    assert counts[0] == pytest.approx(0.7, abs=5 * (0.3 * 0.7 / POOL) ** 0.5)
    for share in counts[1:].tolist():
        assert share == pytest.approx(0.075, abs=5 * (0.075 * 0.925 / POOL) ** 0.5)
    # The mask and the confidence are the network's own; the rate holds among those that count.
    assert torch.equal(found.weight, clean.weight)
    assert torch.equal(found.confidence, clean.confidence)
    assert torch.equal(found.target, found.label)
    counted = clean.weight > 0
    assert 0.1 < counted.float().mean() < 0.9
    assert (step[counted] > 0).float().mean() == pytest.approx(0.3, abs=0.05)


def test_the_same_errors_for_the_same_seed_step_and_sample() -> None:
    """A loop over samples and steps, by the definition: row ``step * pool + index`` of the stream."""
    probs, pool, index = probabilities(6), 9, torch.tensor([8, 0, 3, 3, 5, 1])
    policy = make(noise=0.6, noise_seed=7, pool=pool)
    for step in range(3):
        found = policy(Predictions(probs, index))
        for i, position in enumerate(index.tolist()):
            u, v = uniforms(seed=7, stream=30, start=step * pool + position, count=1, width=2)[0]
            label = int(probs[i].argmax())
            expected = (label + 1 + int(float(v) * (NUM_CLASSES - 1))) % NUM_CLASSES if u < np.float32(0.6) else label
            assert found.label[i] == expected
        assert int(policy.num_batches) == step  # it is counted with the step
        apply_step(policy, number=step)
    assert int(policy.num_batches) == 3


def test_parts_of_a_batch_meet_the_errors_of_the_whole() -> None:
    """As on two ranks, which have a policy each."""
    probs, index = probabilities(40), torch.randperm(POOL, generator=torch.Generator().manual_seed(0))[:40]
    whole, first, second = make(), make(), make()
    for number in range(2):
        parts = [first(Predictions(probs[:17], index[:17])).label, second(Predictions(probs[17:], index[17:])).label]
        assert torch.equal(torch.cat(parts), whole(Predictions(probs, index)).label)
        apply_step(whole, first, second, number=number)
    assert torch.equal(first.num_batches, second.num_batches)


def test_seeds_steps_and_batches_of_a_step_have_errors_of_their_own() -> None:
    probs, index = probabilities(200), torch.arange(200)
    policy = make()
    first, second = (policy(Predictions(probs, index)).label for _ in range(2))
    apply_step(policy)
    third = policy(Predictions(probs, index)).label
    other = make(noise_seed=1)(Predictions(probs, index)).label
    all_errors = [first, second, third, other]
    assert not any(torch.equal(a, b) for i, a in enumerate(all_errors) for b in all_errors[:i])


def test_accumulated_batches_meet_the_errors_of_as_many_steps() -> None:
    probs, index = probabilities(200), torch.arange(200)
    accumulated, stepwise = make(), make()
    for number in range(3):
        assert torch.equal(accumulated(Predictions(probs, index)).label, stepwise(Predictions(probs, index)).label)
        apply_step(stepwise, number=number)
    apply_step(accumulated)
    assert int(accumulated.num_batches) == int(stepwise.num_batches) == 3
    assert torch.equal(accumulated(Predictions(probs, index)).label, stepwise(Predictions(probs, index)).label)


def test_a_step_that_is_discarded_is_not_counted() -> None:
    probs, index = probabilities(200), torch.arange(200)
    policy, other = make(), make()
    policy(Predictions(probs, index))
    policy.discard_step()
    assert torch.equal(policy(Predictions(probs, index)).label, other(Predictions(probs, index)).label)
    apply_step(policy, other)
    assert int(policy.num_batches) == int(other.num_batches) == 1


def test_it_goes_on_after_a_restart() -> None:
    probs, index = probabilities(200), torch.arange(200)
    policy, resumed = make(), make()
    at_first = policy(Predictions(probs, index)).label
    apply_step(policy)
    resumed.load_state_dict(policy.state_dict())
    goes_on = policy(Predictions(probs, index)).label
    assert torch.equal(resumed(Predictions(probs, index)).label, goes_on)
    assert not torch.equal(goes_on, at_first)


@pytest.mark.parametrize(("noise", "wrong"), [(0, 0), (0.0, 0), (1, 200), (1.0, 200)])
def test_none_and_all(noise: float, wrong: int) -> None:
    probs, index = probabilities(200), torch.arange(200)
    assert int((make(noise=noise)(Predictions(probs, index)).label != probs.argmax(dim=1)).sum()) == wrong


@pytest.mark.parametrize("option", ["noise=-0.1", "noise=1.1", "noise=None", "noise_seed=-1", "noise_seed=0.5"])
def test_values_that_are_refused(option: str) -> None:
    name, value = option.split("=")
    with pytest.raises(UserError, match=rf"^{name}="):
        NoisyThreshold(**{name: None if value == "None" else float(value)})
