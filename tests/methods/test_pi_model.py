"""The Pi-Model against numbers of the peers' own code, step by step: losses, weights and averaged weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_from, linear_network, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PiModel
from layermatch.networks import Network
from layermatch.parts import WeightAverage

ORACLE = oracle.read("pi_model")


MAP = ORACLE["inputs"]["W_init"], ORACLE["inputs"]["b_init"]
VIEWS = {"weak": "x_w", "weak_2": "x_s"}


@pytest.mark.oracle
@pytest.mark.parametrize(("variant", "learns"), [("usb/default", "second"), ("torchssl/default", "first")])
def test_every_step_is_that_of_the_peers_code(variant: str, learns: str) -> None:
    settings, network = ORACLE["inputs"], linear_network(*MAP)
    average = WeightAverage(network, decay=settings["ema_m"], warmup=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings["lr"])
    rule = Uniform(lambda_u=settings["lambda_u"])
    method = PiModel(rule=rule, learns=learns, ramp=settings["unsup_warm_up"])
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"][variant]
        step = step_of(network, number, settings["num_train_iter"], average=average.network)
        losses = method.losses(batch_from(recorded["inputs"], **VIEWS), step)
        assert losses["consistency"].weight == pytest.approx(settings["lambda_u"] * expected["unsup_warmup"])
        found = {
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["consistency"].value,
            "total_loss": losses.total,
        }  # fmt: skip
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        average.after_step(step)
        for name, of in (("", network), ("_ema", average.network)):
            found |= {f"state_W{name}": of.classifier.weight.T, f"state_b{name}": of.classifier.bias}
        for name, value in found.items():
            torch.testing.assert_close(value, tensor(expected[name]), rtol=1e-7, atol=1e-7)
    assert losses["consistency"].weight > 5  # the loss took part


def gradients(learns: str, rule: Any) -> dict[str, Tensor]:
    network = linear_network(*MAP)
    losses = PiModel(rule=rule, learns=learns).losses(
        batch_from(ORACLE["steps"][2]["inputs"], **VIEWS), step_of(network, 10)
    )
    losses.total.backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()} | {
        "loss": losses["consistency"].value.detach()
    }


def test_where_both_views_learn_the_gradient_is_the_sum_of_the_two() -> None:
    """The loss is the same; what the labels give stands in both and counts once."""
    both, first, second = (gradients(learns, Uniform(lambda_u=10.0)) for learns in ("both", "first", "second"))
    labels = gradients("both", Uniform(lambda_u=0.0))
    assert both["loss"] == first["loss"] == second["loss"]
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(both[name], first[name] + second[name] - labels[name])
        assert (first[name] - second[name]).abs().max() > 1e-3
    assert PiModel(rule=Uniform()).learns == "both"


@pytest.mark.parametrize("learns", ["both", "first", "second"])
def test_under_grad_relu_the_classifier_learns_from_labels_alone(learns: str) -> None:
    found = gradients(learns, SeparateLosses(lambda_u=10.0, avg_clustering="none"))
    labels = gradients(learns, Uniform(lambda_u=0.0))
    for name in ("classifier.weight", "classifier.bias"):
        torch.testing.assert_close(found[name], labels[name], rtol=0, atol=0)


@pytest.mark.parametrize("learns", ["both", "first", "second"])
def test_unlabelled_images_leave_running_statistics_as_they_are(learns: str) -> None:
    extractor = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    network = Network(extractor, num_features=3, num_classes=6).double()
    batch = batch_from(ORACLE["steps"][0]["inputs"], **VIEWS)
    alone = copy.deepcopy(network)
    alone(batch.labelled.views["weak"])
    losses = PiModel(rule=Uniform(), learns=learns).losses(batch, step_of(network, 10))
    torch.testing.assert_close(extractor[0].running_mean, alone.extractor[0].running_mean)
    assert extractor[0].num_batches_tracked == 1
    assert losses["consistency"].value.requires_grad


@pytest.mark.parametrize(
    ("options", "message"), [({"ramp": 1.5}, "ramp=1.5"), ({"learns": "none"}, "learns='none' is not legal: choose")]
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PiModel(rule=Uniform(), **options)
