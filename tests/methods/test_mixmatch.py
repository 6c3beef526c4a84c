"""MixMatch against numbers of the peers' own code: guesses, mixtures, losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import oracle
from tests.given import GivenMixing, batch_from, linear_network, step_of
from tests.oracle import tensor
from torch import nn

from layermatch.errors import UserError
from layermatch.functional import larger_part, mix
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import MixMatch
from layermatch.methods.mixmatch import Mixing
from layermatch.networks import Network

ORACLE = oracle.read("mixmatch")
SETTINGS = ORACLE["inputs"]
PAPER = "paper/per_sample_lambda"
MAP = SETTINGS["W"], SETTINGS["b"]
VIEWS = {"weak": "x_w", "weak_2": "x_w2"}


def method_of(coefficients: str, rule: Any = None) -> MixMatch:
    method = MixMatch(rule=rule or Uniform(lambda_u=100.0), coefficients=coefficients, ramp=0.4)
    method.mixing = GivenMixing(alpha=0.75, coefficients=coefficients)
    return method


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("variant", "coefficients"), [(PAPER, "sample"), ("usb/default", "batch"), ("torchssl/default", "batch")]
)
def test_every_step_is_that_of_the_peers_code(variant: str, coefficients: str) -> None:
    network, method = linear_network(*MAP), method_of(coefficients)
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], oracle.expected(ORACLE, recorded, variant)
        batch = batch_from(inputs, **VIEWS)
        method.mixing.give(inputs)
        guess = method.guess(network, list(batch.unlabelled.views.values()))
        label = F.one_hot(batch.labelled.label, SETTINGS["K"]).double()
        losses = method.losses(batch, step_of(network, inputs["it"], SETTINGS["num_train_iter"]))
        network.zero_grad()
        losses.total.backward()
        found = {
            "sharpen_prob_x_ulb": guess, "mixed_y": mix(torch.cat([label, guess, guess]), *method.mixing.given),
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["consistency"].value,
            "lambda_u": tensor(losses["consistency"].weight), "total_loss": losses.total,
            "grad_W": network.classifier.weight.grad.T,
        }  # fmt: skip
        for name, value in found.items():
            torch.testing.assert_close(value, tensor(expected[name]), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(guess, tensor(recorded["outputs"]["tf/guess_label"]["sharpen_prob_x_ulb"]))
    assert losses["consistency"].weight > 5  # the loss took part
    assert MixMatch(rule=Uniform()).mixing.coefficients == "sample"


@pytest.mark.oracle
def test_images_are_mixed_as_the_authors_code_mixes_them() -> None:
    for recorded in ORACLE["steps"]:
        inputs, expected = recorded["inputs"], recorded["outputs"]["tf/mixup_per_sample"]
        images = torch.cat([tensor(inputs[name]) for name in ("x_lb", "x_w", "x_w2")])
        mixing = GivenMixing(alpha=0.75, coefficients="sample")
        mixing.give(inputs)
        torch.testing.assert_close(mix(images, *mixing.given), tensor(expected["mixed_x"]), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("coefficients", ["sample", "batch"])
def test_coefficients_are_those_of_torchs_generator(coefficients: str) -> None:
    mixing = Mixing(alpha=0.75, coefficients=coefficients)
    torch.manual_seed(3)
    first = mixing.draw(4000, device="cpu")
    torch.manual_seed(3)
    again, other = mixing.draw(4000, device="cpu"), mixing.draw(4000, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[1].sort().values.equal(torch.arange(4000))
    assert first[0].shape == ((4000,) if coefficients == "sample" else ())
    assert ((first[0] >= 0.5) & (first[0] <= 1)).all()
    if coefficients == "sample":
        # The mean of max(l, 1 - l) with l of Beta(0.75, 0.75), by numerical integration.
        grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = (grid * (1 - grid)) ** (0.75 - 1)
        mean = (larger_part(grid) * density).sum() / density.sum()
        assert first[0].mean().item() == pytest.approx(mean.item(), abs=0.01)


def test_under_grad_relu_the_classifier_learns_from_the_mixtures_of_labelled_images_alone() -> None:
    network, method = linear_network(*MAP), method_of("sample", SeparateLosses(lambda_u=100.0, avg_clustering="none"))
    inputs = ORACLE["steps"][3]["inputs"]
    method.mixing.give(inputs)
    batch = batch_from(inputs, **VIEWS)
    for images in batch.unlabelled.views.values():
        images.requires_grad_()
    losses = method.losses(batch, step_of(network, 50))
    (labels,) = torch.autograd.grad(losses["supervised"].value, network.classifier.weight, retain_graph=True)
    losses.total.backward()
    torch.testing.assert_close(network.classifier.weight.grad, labels, rtol=0, atol=0)
    assert batch.unlabelled.views["weak"].grad.abs().max() > 0  # the extractor, here the images, learns all the same


def test_guesses_leave_running_statistics_as_they_are_and_mixtures_move_them() -> None:
    extractor = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    network = Network(extractor, num_features=3, num_classes=6).double()
    batch, method = batch_from(ORACLE["steps"][0]["inputs"], **VIEWS), method_of("sample")
    guess = method.guess(network, list(batch.unlabelled.views.values()))
    assert not extractor[0].running_mean.any()
    assert guess.grad_fn is None
    method.mixing.give(ORACLE["steps"][0]["inputs"])
    method.losses(batch, step_of(network, 50))
    images = torch.cat([batch.labelled.views["weak"], *batch.unlabelled.views.values()])
    expected = 0.1 * mix(images, *method.mixing.given).mean(dim=0)
    torch.testing.assert_close(extractor[0].running_mean, expected)
    assert extractor[0].num_batches_tracked == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha=0"), ({"temperature": 0}, "temperature=0"), ({"ramp": 2}, "ramp=2"),
        ({"coefficients": "pixel"}, "coefficients='pixel' is not legal: choose one of sample, batch"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixMatch(rule=Uniform(), **options)
