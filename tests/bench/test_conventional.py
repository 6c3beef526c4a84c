"""The conventional loop trains, and computes the same loss as ours."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from layermatch.bench import conventional, pil_pipeline
from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.functional import (
    confidence_mask,
    hard_pseudo_labels,
    probabilities,
    pseudo_label_loss,
    supervised_loss,
)
from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.networks import Network, wrn_small
from layermatch.parts import Problem, Step, WeightAverage
from layermatch.policies import FixedThreshold
from layermatch.training import IntervalMeter, StepGuard

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
THRESHOLD = 0.2


def a_network() -> Network:
    torch.manual_seed(0)
    return wrn_small(num_classes=5)


def a_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labelled, weak, strong = (torch.randn(n, 3, 16, 16, generator=generator) for n in (4, 12, 12))
    return labelled, torch.randint(5, (4,), generator=generator), weak, strong


def some_images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(30, 16, 16, 3), dtype=np.uint8), np.arange(30, dtype=np.int64) % 5


def test_its_loss_is_our_functional_loss_on_the_same_tensors() -> None:
    labelled, label, weak, strong = a_batch()
    loss = conventional.fixmatch_loss(a_network(), labelled, label, weak, strong, threshold=THRESHOLD)
    logits = a_network()(torch.cat([labelled, weak, strong])).logits
    pseudo, confidence = hard_pseudo_labels(probabilities(logits[4:16]))
    mask = confidence_mask(confidence, THRESHOLD)
    assert 0 < mask.sum() <= 12  # pseudo-labels count
    expected = supervised_loss(logits[:4], label) + pseudo_label_loss(logits[16:], pseudo, mask)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)


def test_its_gradients_are_those_of_our_fixmatch_with_a_joint_forward() -> None:
    labelled, label, weak, strong = a_batch()
    theirs, ours = a_network(), a_network()
    conventional.fixmatch_loss(theirs, labelled, label, weak, strong, threshold=THRESHOLD).backward()
    method = PseudoLabelling(policy=FixedThreshold(threshold=THRESHOLD), rule=Uniform(), forward="joint")
    method.prepare(ours, Problem(5, ours.num_features, 4, 30, (3, 16, 16), 1))
    unlabelled = Unlabelled({"weak": weak, "strong": strong}, torch.arange(12), torch.full((12,), -1))
    batch = Batch(Samples({"weak": labelled}, label, torch.arange(4)), unlabelled)
    guard, meter = StepGuard(max_nonfinite=1), IntervalMeter()
    step = Step(ours, copy.deepcopy(ours).eval(), 0, 1, record=meter.add, watch=guard.watch)
    method.losses(batch, step).total.backward()
    for (name, parameter), other in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loop_trains(num_workers: int) -> None:
    network = a_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = some_images()
    seen: list[tuple[int, float]] = []
    device = torch.device("cpu")
    average = conventional.train(
        network, images, labels, range(10), batch_size=2, mu=3, max_steps=3, mean=MEAN, std=STD,
        device=device, num_workers=num_workers, on_step=lambda step, loss: seen.append((step, float(loss))),
    )  # fmt: skip
    assert [step for step, _ in seen] == [1, 2, 3]
    assert all(np.isfinite(loss) and loss > 0 for _, loss in seen)
    live = dict(network.named_parameters())
    assert all(not torch.equal(before[name], value) for name, value in live.items())
    for name, value in average.named_parameters():  # follows slowly
        assert (value - before[name]).norm() < (live[name] - before[name]).norm()


def test_it_learns_one_batch_by_heart() -> None:
    network = a_network()
    batch = a_batch()
    optimizer = conventional.make_optimizer(network)
    losses = []
    for _ in range(20):
        loss = conventional.fixmatch_loss(network, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_its_average_is_ours() -> None:
    start, end = a_network(), a_network()
    with torch.no_grad():
        for parameter in end.parameters():
            parameter.add_(1.0)
    theirs, ours = copy.deepcopy(start), WeightAverage(start, decay=0.9, warmup=False)
    conventional.update_average(theirs, end, decay=0.9)
    ours.update(end, num_updates=0)
    for a, b in zip(theirs.parameters(), ours.network.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_its_views_are_normalised_pil_views() -> None:
    images, labels = some_images()
    assert len(pil_pipeline.PilPipeline().operations) == 14
    dataset = conventional._Images(images, None, mean=MEAN, std=STD)
    weak, strong = next(iter(DataLoader(dataset, batch_size=30)))
    assert weak.shape == strong.shape == (30, 3, 16, 16)
    assert weak.dtype == torch.float32
    scale = torch.tensor(STD).view(3, 1, 1)
    levels = (weak * scale + torch.tensor(MEAN).view(3, 1, 1)) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.min() >= -1e-3
    assert levels.max() <= 255 + 1e-3
    view, label = conventional._Images(images, labels, mean=MEAN, std=STD)[7]
    assert view.shape == (3, 16, 16)
    assert int(label) == 2
