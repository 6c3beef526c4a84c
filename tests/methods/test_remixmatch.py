"""ReMixMatch against numbers of the peers' own code: guesses, the state of the alignment, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import oracle
from tests.given import GivenMixing, batch_from, linear_network, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.functional import mix
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import ReMixMatch
from layermatch.networks import Network
from layermatch.parts import DistributionAlignment, Problem

ORACLE = oracle.read("remixmatch")
SETTINGS = ORACLE["inputs"]
PROBLEM = Problem(SETTINGS["K"], 4, 12, 24, (1, 2, 2), 100, label_counts=(1, 2, 3, 2, 3, 1))
VIEWS = {"weak": "x_w", "strong": "x_s0", "strong_2": "x_s1"}

#: For each variant what makes it.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper/buffer128_per_sample_lambda": {},
    "usb/m0.999": {"average": "running", "epsilon": 1e-6, "coefficients": "batch"},
    "usb/m0.9": {"average": "running", "epsilon": 1e-6, "coefficients": "batch"},
    "torchssl/m0.999": {"average": "running", "coefficients": "batch"},
}


class Given(ReMixMatch):
    """Turns images as the oracle says."""

    def give(self, inputs: dict[str, Any]) -> None:
        self.mixing.give(inputs)
        self.given = tensor(inputs["x_rot"]), torch.tensor(inputs["y_rot"])

    def turn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.given


def method_of(rule: Any = None, **options: Any) -> Given:
    options = {"labelled_view": "weak", "ramp": 1 / 8} | options
    method = Given(rule=rule or Uniform(lambda_u=1.5), **options)
    method.mixing = GivenMixing(alpha=0.75, coefficients=method.mixing.coefficients)
    return method


def prepared(method: ReMixMatch) -> tuple[ReMixMatch, Network]:
    """The method, and the network of the oracle: linear maps."""
    network = linear_network(SETTINGS["W"], SETTINGS["b"])
    for name, head in method.heads(PROBLEM).items():
        network.add_head(name, head.double())
    with torch.no_grad():
        if method.w_rot:
            network.rotation.weight.copy_(tensor(SETTINGS["W_rot"]).T)
            network.rotation.bias.copy_(tensor(SETTINGS["b_rot"]))
    method.prepare(network, PROBLEM)
    method.double().alignment.fixed_target = tensor(SETTINGS["p_target"])
    uniform = torch.full((SETTINGS["K"],), 1 / SETTINGS["K"], dtype=torch.float64)
    for buffer in method.alignment.average.buffers():  # what float32 made of 1/K
        if buffer.is_floating_point():
            buffer.copy_(uniform)
    return method, network


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_peers_code(variant: str) -> None:
    method = method_of(**VARIANTS[variant])
    if variant == "usb/m0.9":  # shows what two steps of 0.999 hide
        method.alignment = DistributionAlignment(target="labelled", decay=0.9, epsilon=1e-6)
    method, network = prepared(method)
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], oracle.expected(ORACLE, recorded, variant)
        batch, step = batch_from(inputs, **VIEWS), step_of(network, inputs["it"], SETTINGS["num_train_iter"])
        method.give(inputs)
        guess = method.guess(network, batch.unlabelled.views["weak"])
        method.alignment.discard_step()
        losses = method.losses(batch, step)
        network.zero_grad()
        losses.total.backward()
        label = F.one_hot(batch.labelled.label, SETTINGS["K"]).double()
        found = {
            "sharpen_prob_x_ulb": guess, "mixed_y": mix(torch.cat([label, guess, guess, guess]), *method.mixing.given),
            "state_p_model": method.alignment.model_average, "sup_loss": losses["supervised"].value,
            "unsup_loss": losses["match"].value, "u1_loss": losses["kl"].value, "rot_loss": losses["rotation"].value,
            "total_loss": losses.total, "grad_W": network.classifier.weight.grad.T,
        }  # fmt: skip
        for name, value in found.items():
            if name in expected:
                torch.testing.assert_close(value, tensor(expected[name]), rtol=1e-7, atol=1e-7, msg=name)
        ramp = oracle.expected(ORACLE, recorded, "usb/m0.999")["unsup_warmup"]
        assert losses["match"].weight == pytest.approx(1.5 * ramp)
        assert losses["kl"].weight == pytest.approx(0.5 * ramp)
        assert losses["rotation"].weight == 0.5
        method.alignment.average.after_step(step)
    assert losses["match"].weight > 0.1  # the loss took part


@pytest.mark.oracle
@pytest.mark.parametrize("length", [128, 3])
def test_guesses_are_those_of_the_authors_code(length: int) -> None:
    """Which adds 1e-6 on both sides; a buffer of 3 forgets within the run."""
    method = method_of(epsilon=1e-6)
    if length != 128:
        method.alignment = DistributionAlignment(
            target="labelled", queue=length, start="uniform", includes_batch=False, epsilon=1e-6
        )
    method, network = prepared(method)
    for recorded in ORACLE["steps"]:
        expected = recorded["outputs"][f"tf/guess_label_buffer{length}"]
        before = method.alignment.average.value
        guess = method.guess(network, tensor(recorded["inputs"]["x_w"]))
        method.alignment.average.after_step(step_of(network, 50))
        for value, name in (
            (before, "p_model_before"), (guess, "sharpen_prob_x_ulb"),
            (method.alignment.average.value, "p_model_after"),
        ):  # fmt: skip
            torch.testing.assert_close(value, tensor(expected[name]), rtol=1e-7, atol=1e-7)


@pytest.mark.oracle
def test_images_are_mixed_as_the_authors_code_mixes_them() -> None:
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], recorded["outputs"]["tf/mixup_per_sample"]
        images = torch.cat([tensor(inputs[name]) for name in ("x_lb", "x_w", "x_s0", "x_s1")])
        mixing = GivenMixing(alpha=0.75, coefficients="sample")
        mixing.give(inputs)
        torch.testing.assert_close(mix(images, *mixing.given), tensor(expected["mixed_x"]), rtol=1e-7, atol=1e-7)


def test_the_paper_is_the_default() -> None:
    method = ReMixMatch(rule=Uniform())
    alignment = method.alignment
    assert (alignment.queue, alignment.includes_batch, alignment.epsilon) == (128, False, 0.0)
    assert (method.mixing.coefficients, method.views.labelled, method.ramp) == ("sample", {"strong": "strong"}, 1 / 64)
    assert list(ReMixMatch(rule=Uniform(), num_strong=1).views.unlabelled) == ["weak", "strong"]


def test_under_grad_relu_the_classifier_learns_from_the_mixtures_of_labelled_images_alone() -> None:
    method, network = prepared(method_of(SeparateLosses(lambda_u=1.5, avg_clustering="none")))
    inputs = ORACLE["steps"][3]["inputs"]
    method.give(inputs)
    batch = batch_from(inputs, **VIEWS)
    batch.unlabelled.views["strong_2"].requires_grad_()
    losses = method.losses(batch, step_of(network, 50))
    weight = network.classifier.weight
    (labels,) = torch.autograd.grad(losses["supervised"].value, weight, retain_graph=True)
    losses.total.backward()
    torch.testing.assert_close(weight.grad, labels, rtol=0, atol=0)
    assert network.rotation.weight.grad.abs().max() > 0
    assert (
        batch.unlabelled.views["strong_2"].grad.abs().max() > 0
    )  # the extractor, here the images, learns all the same


def test_terms_of_no_weight_cost_no_pass_and_no_head() -> None:
    method, network = prepared(method_of(w_kl=0, w_rot=0))
    method.mixing.give(ORACLE["steps"][0]["inputs"])
    assert list(method.losses(batch_from(ORACLE["steps"][0]["inputs"], **VIEWS), step_of(network, 50))) == [
        "supervised",
        "match",
    ]
    assert list(network.heads) == ["classifier"]


def test_a_step_that_is_not_applied_leaves_the_alignment_as_it_was() -> None:
    method, network = prepared(method_of())
    inputs = ORACLE["steps"][0]["inputs"]
    method.give(inputs)
    method.losses(batch_from(inputs, **VIEWS), step_of(network, 50))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    for state in (module for module in method.modules() if hasattr(module, "discard_step")):
        state.discard_step()
    method.alignment.average.after_step(step_of(network, 50))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_images_are_turned_by_each_number_of_quarters() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 1, 4, 4)
    turned, turns = ReMixMatch(rule=Uniform()).turn(images)
    assert set(turns.tolist()) == {0, 1, 2, 3}
    for image, found, times in zip(images, turned, turns.tolist(), strict=True):
        expected = image
        for _ in range(times):  # anticlockwise: the last column becomes the first row
            expected = expected.transpose(1, 2).flip(1)
        assert torch.equal(found, expected)


def test_images_that_are_not_square_are_refused_where_they_would_be_turned() -> None:
    network = Network(nn.Flatten(), num_features=6, num_classes=6)
    problem = Problem(6, 6, 12, 24, (1, 2, 3), 100, label_counts=(2,) * 6)
    with pytest.raises(UserError, match="images of 2x3 cannot be turned by a quarter: give w_rot=0"):
        ReMixMatch(rule=Uniform()).prepare(network, problem)
    ReMixMatch(rule=Uniform(), w_rot=0).prepare(network, problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha=0"), ({"temperature": 0}, "temperature=0"), ({"ramp": 2}, "ramp=2"),
        ({"num_strong": 0}, "num_strong=0"), ({"w_kl": -1}, "w_kl=-1"), ({"w_rot": -1}, "w_rot=-1"),
        ({"epsilon": -1}, "epsilon=-1"), ({"average": "mean"}, "average='mean'"),
        ({"labelled_view": "raw"}, "labelled_view='raw'"), ({"coefficients": "pixel"}, "coefficients='pixel'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReMixMatch(rule=Uniform(), **options)
