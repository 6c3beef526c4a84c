"""Methods with banks, heads and rotations of their own go with any policy and any layer-wise rule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.given import batch_of, finish, step_of
from torch import Tensor, nn

from layermatch.layerwise import LayerwiseRule, SeparateLosses, Uniform
from layermatch.layerwise.avg_clustering import READINGS
from layermatch.methods import CoMatch, CRMatch, ShrinkMatch, SimMatch
from layermatch.networks import Network
from layermatch.parts import LABELS, DistributionAlignment, Problem
from layermatch.policies import Aligned, FixedThreshold, NoisyThreshold, Policy, SoftThreshold

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "comatch": (CoMatch, {"bank_from": 1, "width": 4}),
    "crmatch": (CRMatch, {}),
    "shrinkmatch": (ShrinkMatch, {"shrink_threshold": 0.5}),
    "simmatch": (SimMatch, {"bank_from": 1, "width": 4}),
}
POLICIES: dict[str, Any] = {
    "aligned": lambda: Aligned(
        policy=FixedThreshold(threshold=0.35), alignment=DistributionAlignment(target="predictions")
    ),
    "fixed": lambda: FixedThreshold(threshold=0.35),
    "noisy": lambda: NoisyThreshold(threshold=0.35),
    "soft": lambda: SoftThreshold(threshold=0.35),
}
RULES: dict[str, Any] = {
    "uniform": Uniform,
    "decoupled": lambda: SeparateLosses(decoupled=True),
    **{name: lambda name=name: SeparateLosses(avg_clustering=name) for name in READINGS},
}
NUM, NUM_LABELLED, SIDE = 10, 6, 3
PROBLEM = Problem(4, 8, NUM_LABELLED, NUM, (1, SIDE, SIDE), 10, (2, 2, 1, 1))


def images(num: int, seed: int) -> Tensor:
    return torch.randn(num, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def batch(number: int) -> Any:
    views = {name: images(NUM, 10 * number + i) for i, name in enumerate(("weak", "strong", "strong_2"))}
    return batch_of(images(NUM_LABELLED, number), [0, 0, 1, 1, 2, 3], views)


def made(name: str, policy: Policy, rule: LayerwiseRule, **more: Any) -> tuple[Any, Network]:
    torch.manual_seed(0)
    kind, options = METHODS[name]
    method = kind(policy=policy, rule=rule, **options, **more)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.BatchNorm1d(8), nn.Tanh())
    network = Network(extractor, num_features=8, num_classes=4)
    for head, module in method.heads(PROBLEM).items():
        network.add_head(head, module)
    method.prepare(network, PROBLEM)
    return method, network


def gradients(losses: Any, network: Network) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(losses.total, parameters, retain_graph=True)  # refuses a parameter without a loss
    return dict(zip(names, found, strict=True))


def check_two_steps(method: Any, network: Network) -> None:
    for number in range(2):
        step = step_of(network, number)
        given = batch(number)
        asked = {name: given.unlabelled.views[name] for name in method.views.unlabelled}
        losses = method.losses(given._replace(unlabelled=given.unlabelled._replace(views=asked)), step)
        for name, grad in gradients(losses, network).items():
            assert grad.isfinite().all(), name
        for group, parameters in network.parameter_groups().items():
            own = torch.autograd.grad(
                losses.reaching(group), [p for _, p in parameters], retain_graph=True, allow_unused=True
            )
            for (name, _), expected in zip(parameters, own, strict=True):
                torch.testing.assert_close(gradients(losses, network)[name], expected, rtol=1e-4, atol=1e-7)
        of_labels = torch.autograd.grad(losses.of(LABELS), network.classifier.weight, retain_graph=True)[0]
        is_labels = torch.allclose(gradients(losses, network)["classifier.weight"], of_labels, rtol=1e-5, atol=1e-8)
        assert is_labels == isinstance(method.rule, SeparateLosses)
        finish(method, step)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", METHODS)
def test_each_group_has_the_gradient_of_its_own_losses_under_every_rule(name: str, rule: str) -> None:
    check_two_steps(*made(name, SoftThreshold(threshold=0.35), RULES[rule]()))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", METHODS)
def test_each_group_has_the_gradient_of_its_own_losses_under_every_policy(name: str, policy: str) -> None:
    check_two_steps(*made(name, POLICIES[policy](), SeparateLosses(avg_clustering="none")))


@pytest.mark.parametrize("forward", ["shared", "split"])
@pytest.mark.parametrize("name", METHODS)
def test_each_group_has_the_gradient_of_its_own_losses_however_views_are_sent(name: str, forward: str) -> None:
    check_two_steps(*made(name, SoftThreshold(threshold=0.35), Uniform(), forward=forward))
