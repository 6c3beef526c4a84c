"""SequenceMatch against a re-statement in numpy, and where its losses go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import given
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.layerwise import LayerwiseRule, SeparateLosses, Uniform
from layermatch.methods import SequenceMatch
from layermatch.networks import Network
from layermatch.parts import Losses
from layermatch.policies import FixedThreshold, ReFixMatch

NUM = 24


def drawn(rows: int, width: int, seed: int) -> Tensor:
    return 3 * torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(width: int) -> Batch:
    views = {name: drawn(NUM, width, seed) for seed, name in enumerate(("weak", "strong", "medium"))}
    return given.batch_of(drawn(6, width, 9), torch.arange(6) % 3, views)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def followed(stronger: np.ndarray, weaker: np.ndarray, *, threshold: float, temperature: float) -> float:
    total = 0.0
    for ahead, behind in zip(stronger, weaker, strict=True):
        if softmax(behind).max() >= threshold:
            target = softmax(behind / temperature)
            total += (target * (np.log(target) - np.log(softmax(ahead)))).sum()
    return total / len(stronger)


def losses_of(network: Network, batch: Batch, *, rule: LayerwiseRule, policy: Any = None, **options: Any) -> Losses:
    method = SequenceMatch(policy=policy or FixedThreshold(threshold=0.8), rule=rule, **options)
    method.prepare(network, given.problem_of(network.num_classes, network.num_features, num_labelled=6))
    return method.losses(batch, given.step_of(network))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("threshold", [1e-9, 0.8, 1.0])  # all are confident, some, none
@pytest.mark.parametrize("num_classes", [2, 4])
def test_each_view_follows_the_weaker_ones(num_classes: int, threshold: float, temperature: float) -> None:
    network = given.network_of(num_classes)
    batch = batch_of(num_classes)
    if num_classes == 2:
        batch = batch._replace(labelled=batch.labelled._replace(label=torch.arange(6) % 2))
    options = {"threshold": threshold, "temperature": temperature}
    losses = losses_of(network, batch, rule=Uniform(lambda_u=0.5), **options)
    of = {name: view.numpy() for name, view in batch.unlabelled.views.items()}
    pairs = {
        "medium_from_weak": ("medium", "weak"),
        "strong_from_medium": ("strong", "medium"),
        "strong_from_weak": ("strong", "weak"),
    }
    for name, (stronger, weaker) in pairs.items():
        expected = followed(of[stronger], of[weaker], **options)
        assert losses[name].value.item() == pytest.approx(expected, rel=1e-9, abs=1e-14)
        assert losses[name].weight == 0.5
        assert (expected == 0) == (threshold == 1)
    total = sum(term.weight * term.value for term in losses.values())
    torch.testing.assert_close(losses.total, total)


def test_no_gradient_goes_from_a_view_to_a_weaker_one() -> None:
    network = Network(nn.Identity(), num_features=3, num_classes=3).double()
    batch = batch_of(3)
    views = {name: view.requires_grad_() for name, view in batch.unlabelled.views.items()}
    losses = losses_of(network, batch, rule=Uniform())
    losses["strong_from_medium"].value.backward()
    assert views["strong"].grad.abs().sum() > 0
    assert views["medium"].grad is None or not views["medium"].grad.any()


@pytest.mark.parametrize("policy", [FixedThreshold(threshold=0.7), ReFixMatch(threshold=0.7)])
@pytest.mark.parametrize("forward", ["joint", "split", "shared"])
def test_under_grad_relu_the_classifier_gets_the_gradient_of_the_labels_alone(forward: str, policy: Any) -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(6, 4), num_features=4, num_classes=3).double()
    rule = SeparateLosses(avg_clustering="none")
    losses = losses_of(network, batch_of(6), rule=rule, policy=policy, forward=forward, threshold=0.4)
    parts = [losses[name] for name in ("medium_from_weak", "strong_from_medium", "strong_from_weak")]
    assert all(term.value > 0 and term.reaches == {"extractor"} for term in parts)
    weight, inside = network.classifier.weight, network.extractor.weight
    whole = torch.autograd.grad(losses.total, [weight, inside], retain_graph=True)
    of_labels = torch.autograd.grad(losses.of("labels"), [weight, inside])
    torch.testing.assert_close(whole[0], of_labels[0], rtol=1e-12, atol=0)
    assert not torch.allclose(whole[1], of_labels[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold=0"),
        ({"temperature": 0}, "temperature=0"),
        ({"forward": "split", "skip_masked": True}, "skip_masked=true is not legal with SequenceMatch"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SequenceMatch(policy=FixedThreshold(), rule=Uniform(), **options)
