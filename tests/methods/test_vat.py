"""VAT against numbers of the peers' own code: perturbations, losses and gradients, in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_from, batch_of, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.functional import probabilities
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import VAT
from layermatch.networks import Network, wrn_small

ORACLE = oracle.read("vat")
SETTINGS = ORACLE["inputs"]
#: The codes are run with xi 1e-6: the oracle asks for this tolerance.
TOLERANCE = 1e-6


class FromStart(VAT):
    """Starts the power method where the oracle does."""

    given: Tensor

    def start(self, images: Tensor) -> Tensor:
        return self.given


def oracle_network() -> Network:
    """The network of the oracle: one hidden layer of tanh."""
    hidden = nn.Linear(6, SETTINGS["hidden"])
    extractor = nn.Sequential(nn.Flatten(), hidden, nn.Tanh())
    network = Network(extractor, num_features=SETTINGS["hidden"], num_classes=SETTINGS["K"]).double()
    with torch.no_grad():
        hidden.weight.copy_(tensor(SETTINGS["W1"]).T)
        hidden.bias.copy_(tensor(SETTINGS["b1"]))
        network.classifier.weight.copy_(tensor(SETTINGS["W2"]).T)
        network.classifier.bias.copy_(tensor(SETTINGS["b2"]))
    return network


def method_of(rule: Any = None, **options: Any) -> FromStart:
    options = {"epsilon": SETTINGS["eps"], "xi": SETTINGS["xi"], "entropy_weight": 0.06, "ramp": 0.4} | options
    return FromStart(rule=rule or Uniform(lambda_u=0.3), **options)


@pytest.mark.oracle
def test_every_step_is_that_of_the_peers_code() -> None:
    """The directions are those of exact length, which no code has; the losses agree with the codes' all the same."""
    network, method = oracle_network(), method_of()
    for recorded in ORACLE["steps"]:
        inputs, outputs = recorded["inputs"], recorded["outputs"]
        batch = batch_from(inputs, weak="x_w")
        method.given = tensor(inputs["d_init"])
        images = batch.unlabelled.views["weak"]
        direction = method.direction(network, images, probabilities(network(images).logits))
        losses = method.losses(batch, step_of(network, inputs["it"], SETTINGS["num_train_iter"]))
        network.zero_grad()
        losses.total.backward()
        found = {
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["adversarial"].value,
            "loss_entmin": losses["entropy"].value, "total_loss": losses.total,
            "grad_W2": network.classifier.weight.grad.T,
        }  # fmt: skip
        exact = {"direction": direction, "r_adv": SETTINGS["eps"] * direction}
        for variant, values in (
            ("paper/exact_norm", found | exact), ("usb/default", found), ("torchssl/default", found),
            ("tf/takerum_eps6", {"unsup_loss": found["unsup_loss"]}),
        ):  # fmt: skip
            expected = outputs["usb/default"] | outputs[variant]
            for name, value in values.items():
                torch.testing.assert_close(value, tensor(expected[name]), rtol=TOLERANCE, atol=TOLERANCE)
        assert losses["adversarial"].weight == pytest.approx(0.3 * outputs["usb/default"]["unsup_warmup"])
        torch.testing.assert_close(
            direction.flatten(1).norm(dim=1), torch.ones(len(images)).double(), atol=1e-12, rtol=0
        )
    assert losses["adversarial"].weight > 0  # the loss took part


@pytest.mark.parametrize("iterations", [1, 3])
def test_without_xi_the_direction_is_the_limit_of_small_xi(iterations: int) -> None:
    network = oracle_network()
    inputs = ORACLE["steps"][0]["inputs"]
    images = batch_from(inputs, weak="x_w").unlabelled.views["weak"]
    target = probabilities(network(images).logits)
    finite, limit = (method_of(xi=xi, power_iterations=iterations) for xi in (1e-6, None))
    finite.given = limit.given = tensor(inputs["d_init"])
    expected = limit.direction(network, images, target)
    torch.testing.assert_close(finite.direction(network, images, target), expected, rtol=0, atol=1e-4)
    assert expected.grad_fn is None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_in_float32_the_limit_keeps_the_direction_that_a_small_xi_loses() -> None:
    torch.manual_seed(0)
    network = wrn_small(num_classes=6, in_channels=1).train()
    images, start = torch.randn(32, 1, 8, 8), torch.randn(32, 1, 8, 8)

    def directions(network: Network, dtype: torch.dtype, xi: float | None) -> Tensor:
        method = method_of(xi=xi)
        method.given = start.to(dtype)
        target = probabilities(network(images.to(dtype)).logits)
        return method.direction(network, images.to(dtype), target).double().flatten(1)

    exact = directions(copy.deepcopy(network).double(), torch.float64, 1e-6)
    limit, finite = (directions(network, torch.float32, xi) for xi in (None, 1e-6))
    assert (exact * limit).sum(dim=1).min() > 0.999
    assert (exact * finite).sum(dim=1).median() < 0.9


def test_a_compiled_network_is_differentiated_twice_all_the_same() -> None:
    network = wrn_small(num_classes=6, in_channels=1).train()
    images = torch.randn(4, 1, 8, 8)
    target = probabilities(network(images).logits)
    method = method_of(xi=None)
    method.given = torch.randn_like(images)
    expected = method.direction(network, images, target)
    network.compile(backend="aot_eager")
    torch.testing.assert_close(method.direction(network, images, target), expected)


def test_synchronised_batch_norm_needs_a_finite_difference() -> None:
    network = Network(nn.SyncBatchNorm(6), num_features=6, num_classes=6)
    method = method_of(xi=None)
    method.given = images = torch.randn(4, 6)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        with pytest.raises(UserError, match=r"xi=null is not legal with trainer.sync_batchnorm=true: give xi=0.001"):
            method.direction(network, images, torch.full((4, 6), 1 / 6))
    finally:
        torch.distributed.destroy_process_group()


def test_the_power_method_finds_the_direction_of_the_largest_eigenvalue() -> None:
    network = oracle_network()
    inputs = ORACLE["steps"][0]["inputs"]
    images = batch_from(inputs, weak="x_w").unlabelled.views["weak"][:3]
    target = probabilities(network(images).logits)
    method = method_of(xi=None, power_iterations=200)
    method.given = tensor(inputs["d_init"])[:3]
    found = method.direction(network, images, target).flatten(1)
    for image, probs, direction in zip(images, target, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None]).logits[0], image).flatten(1)
        hessian = jacobian.T @ (probs.diag() - probs.outer(probs)) @ jacobian
        largest = torch.linalg.eigh(hessian).eigenvectors[:, -1]
        assert abs(largest @ direction) > 1 - 1e-6


@pytest.mark.parametrize("xi", [1e-6, None])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.06])
def test_no_pass_of_unlabelled_images_moves_the_running_statistics(xi: float | None, entropy_weight: float) -> None:
    torch.manual_seed(0)
    network = wrn_small(num_classes=6, in_channels=1).double().train()
    inputs = {
        "x_w": torch.randn(12, 1, 8, 8).tolist(), "x_lb": torch.randn(12, 1, 8, 8).tolist(), "y_lb": [0, 1, 2] * 4
    }  # fmt: skip
    batch = batch_from(inputs, weak="x_w")
    alone = copy.deepcopy(network)
    alone(batch.labelled.views["weak"])
    losses = VAT(rule=Uniform(), xi=xi, entropy_weight=entropy_weight).losses(batch, step_of(network, 50))
    for (name, buffer), expected in zip(network.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)
    assert losses["adversarial"].value > 0
    assert ("entropy" in losses) == bool(entropy_weight)


def test_in_bf16_the_direction_is_that_of_float32() -> None:
    """A step of 1e-6 is lost in bf16, and so is the difference of two predictions that it makes."""
    torch.manual_seed(0)
    network = wrn_small(num_classes=6, in_channels=1).train()
    label, images = torch.arange(6), torch.randn(6, 1, 8, 8)
    batch = batch_of(images, label, {"weak": images})
    method = FromStart(rule=Uniform(), xi=None)
    method.given = torch.randn_like(images)
    plain = method.losses(batch, step_of(network, 50))["adversarial"].value
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.losses(batch, step_of(network, 50))["adversarial"].value
    torch.testing.assert_close(mixed, plain)


def test_under_grad_relu_the_classifier_learns_from_labels_alone() -> None:
    network, method = oracle_network(), method_of(SeparateLosses(lambda_u=0.3, avg_clustering="none"))
    inputs = ORACLE["steps"][3]["inputs"]
    method.given = tensor(inputs["d_init"])
    losses = method.losses(batch_from(inputs, weak="x_w"), step_of(network, 50))
    weight = network.classifier.weight
    (labels,) = torch.autograd.grad(losses["supervised"].value, weight, retain_graph=True)
    (extractor,) = torch.autograd.grad(losses.of("pseudo_labels"), network.extractor[1].weight, retain_graph=True)
    losses.total.backward()
    torch.testing.assert_close(weight.grad, labels, rtol=0, atol=0)
    assert extractor.abs().max() > 1e-3


def test_certain_predictions_have_a_finite_gradient() -> None:
    """A probability of 0 has a derivative of its entropy that is not finite."""
    network, method = oracle_network(), method_of(entropy_weight=0.06)
    with torch.no_grad():
        network.classifier.weight.mul_(1e6)
    inputs = ORACLE["steps"][0]["inputs"]
    method.given = tensor(inputs["d_init"])
    batch = batch_from(inputs, weak="x_w")
    assert (probabilities(network(batch.unlabelled.views["weak"]).logits) == 0).any()
    entropy = method.losses(batch, step_of(network, 50))["entropy"].value
    gradients = torch.autograd.grad(entropy, list(network.parameters()), allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0}, "epsilon=0"), ({"xi": 0}, "xi=0"), ({"power_iterations": 0}, "power_iterations=0"),
        ({"power_iterations": 1.5}, "power_iterations=1.5"), ({"entropy_weight": -1}, "entropy_weight=-1"),
        ({"ramp": 2}, "ramp=2"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VAT(rule=Uniform(), **options)


@pytest.mark.parametrize("xi", [None, 1e-3])
def test_small_differences_are_not_rounded_by_a_graphics_card(xi: float | None) -> None:
    """Its convolutions take TF32 by default, in which images changed by 0.001 are the same images."""
    before, seen = torch.backends.cudnn.conv.fp32_precision, []
    assert before != "ieee"

    class Seeing(VAT):
        def start(self, images: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return super().start(images)

    network = wrn_small(num_classes=6, in_channels=1).train()
    images = torch.randn(6, 1, 8, 8)
    batch = batch_of(images, torch.arange(6), {"weak": images})
    Seeing(rule=Uniform(), xi=xi).losses(batch, step_of(network, 50))
    assert seen == [before if xi is None else "ieee"]
    assert torch.backends.cudnn.conv.fp32_precision == before
