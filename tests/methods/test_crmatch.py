"""CR-Match against numbers of USB's code, its rotations against single images, and the weights of its losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests import oracle
from tests.given import batch_of, image, network_of, problem_of, step_of
from tests.oracle import Worst, tensor
from torch import nn

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import CRMatch
from layermatch.networks import Network
from layermatch.parts import Problem
from layermatch.policies import FixedThreshold

ORACLE = oracle.read("crmatch")
SIZES = ORACLE["inputs"]
#: Whether the cosine is clamped, for each variant.
VARIANTS = {"usb/default": True, "alternative/unclamped_cosine": False}


def batch(inputs: dict[str, Any]) -> Any:
    nothing = torch.zeros(len(inputs["logits_lb"]), SIZES["feature_dim"]).tolist()
    views = {
        "weak": image(inputs["logits_w"], inputs["feats_ds_w"]).requires_grad_(),
        "strong": image(inputs["logits_s"], inputs["feats_ds_s"]).requires_grad_(),
    }
    return batch_of(image(inputs["logits_lb"], nothing), inputs["y_lb"], views)


def made(rule: Any = None, **options: Any) -> tuple[CRMatch, Network]:
    policy = FixedThreshold(threshold=ORACLE["config"]["usb/default"]["p_cutoff"])
    method = CRMatch(policy=policy, rule=rule or Uniform(), lambda_r=0.0, **options)
    net = network_of(SIZES["K"], distance=SIZES["feature_dim"])
    method.prepare(net, problem_of(net.num_classes, net.num_features))
    return method, net


@pytest.mark.oracle
@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_peers_code(variant: str, forward: str) -> None:
    method, net = made(clamped=VARIANTS[variant], forward=forward)
    worst = Worst()
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], oracle.expected(ORACLE, recorded, variant)
        given = batch(inputs)
        losses = method.losses(given, step_of(net))
        worst.see(losses["supervised"].value, expected["Lx"])
        worst.see(losses["pseudo"].value, expected["Lu"])
        worst.see(losses["distance"].value, expected["Ld"])
        rotation = F.cross_entropy(tensor(inputs["logits_rot"]), torch.tensor(inputs["y_rot"]))
        worst.see(rotation, expected["Lrot"])
        worst.see(losses.total + rotation, expected["total_loss"])
        losses.total.backward()
        strong, weak = given.unlabelled.views["strong"].grad, given.unlabelled.views["weak"].grad
        worst.see(strong[:, : SIZES["K"]], expected["grad_logits_s"])
        worst.see(strong[:, SIZES["K"] :], expected["grad_feats_ds_s"])
        if forward == "joint":
            worst.see(weak[:, SIZES["K"] :], expected["grad_feats_ds_w"])
            assert (weak[:, : SIZES["K"]] == 0).all()  # pseudo-labels carry no gradient
        else:
            assert weak is None or (weak == 0).all()
    assert worst.difference < 1e-8  # the recorded numbers have nine digits


def square_batch(side: int = 4, num: int = 6, num_labelled: int = 2) -> Any:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2 * num + num_labelled, 1, side, side, generator=generator, dtype=torch.float64)
    labelled, weak, strong = images.split([num_labelled, num, num])
    return batch_of(labelled, [0, 1], {"weak": weak, "strong": strong})


def with_rotation(rule: Any = None, **options: Any) -> tuple[CRMatch, Network]:
    torch.manual_seed(0)
    method = CRMatch(policy=FixedThreshold(threshold=0.4), rule=rule or Uniform(), **options)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh())
    net = Network(extractor, num_features=5, num_classes=3)
    problem = Problem(3, 5, 10, 10, (1, 4, 4), 10)
    for name, head in method.heads(problem).items():
        net.add_head(name, head)
    method.prepare(net, problem)
    return method, net.double()


@pytest.mark.parametrize("forward", ["joint", "shared", "split"])
def test_the_rotation_loss_is_that_of_images_turned_one_by_one(forward: str) -> None:
    method, net = with_rotation(forward=forward)
    given = square_batch()
    losses = method.losses(given, step_of(net))
    expected = []
    for one in given.unlabelled.views["weak"][::3]:  # as many as there are labelled images
        for quarters in range(4):
            turned = torch.from_numpy(np.rot90(one.numpy(), quarters, axes=(1, 2)).copy())
            logits = net(turned[None], heads=("rotation",)).heads["rotation"]
            expected.append(torch.logsumexp(logits[0], 0) - logits[0, quarters])
    torch.testing.assert_close(losses["rotation"].value, torch.stack(expected).mean())


def test_the_weights_are_applied_and_a_rotation_of_weight_0_is_left_out() -> None:
    method, net = with_rotation(lambda_d=0.25, lambda_r=0.5)
    losses = method.losses(square_batch(), step_of(net))
    value = {name: term.value for name, term in losses.items()}
    assert losses["distance"].value > 0
    expected = value["supervised"] + value["pseudo"] + 0.25 * value["distance"] + 0.5 * value["rotation"]
    torch.testing.assert_close(losses.total, expected)
    without, net = with_rotation(lambda_r=0.0)
    assert set(net.heads) == {"classifier", "distance"}
    assert set(without.losses(square_batch(), step_of(net))) == {"supervised", "pseudo", "distance"}


@pytest.mark.parametrize("rule", [Uniform, lambda: SeparateLosses(avg_clustering="none")])
def test_each_loss_reaches_the_extractor_and_its_own_head_alone(rule: Any) -> None:
    method, net = with_rotation(rule())
    losses = method.losses(square_batch(), step_of(net))
    parameters = {name: group[0][1] for name, group in net.parameter_groups().items()}
    for name in ("distance", "rotation"):
        assert losses[name].reaches == {"extractor", name}
        gradients = torch.autograd.grad(
            losses[name].value, list(parameters.values()), retain_graph=True, allow_unused=True
        )
        reached = {group for group, grad in zip(parameters, gradients, strict=True) if grad is not None}
        assert reached == {"extractor", name}
    if not isinstance(method.rule, Uniform):
        head = net.classifier.weight
        found, labels = (
            torch.autograd.grad(of, head, retain_graph=True)[0] for of in (losses.total, losses["supervised"].value)
        )
        assert torch.equal(found, labels)


def test_images_that_are_not_square_cannot_be_turned() -> None:
    net = Network(nn.Identity(), num_features=5, num_classes=3)
    problem = Problem(3, 5, 10, 10, (1, 4, 6), 10)
    with pytest.raises(UserError, match="4x6 are not square"):
        CRMatch(policy=FixedThreshold(), rule=Uniform()).prepare(net, problem)
    CRMatch(policy=FixedThreshold(), rule=Uniform(), lambda_r=0.0).prepare(net, problem)


@pytest.mark.parametrize("options", [{"lambda_d": -1}, {"lambda_r": -1}, {"clamped": 1}])
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is not legal"):
        CRMatch(policy=FixedThreshold(), rule=Uniform(), **options)
