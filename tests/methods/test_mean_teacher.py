"""Mean Teacher against numbers of the peers' own code, step by step: losses, weights and averaged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layermatch.data.batch import Batch, Samples, Unlabelled
from layermatch.errors import UserError
from layermatch.layerwise import Uniform
from layermatch.methods import MeanTeacher
from layermatch.networks import Network
from layermatch.parts import Step, WeightAverage

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "mean_teacher.json").read_text(encoding="utf-8"))
#: The variant that follows the paper.
VARIANT = ORACLE["paper_form"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def linear_network() -> Network:
    """The network of the oracle: a linear map."""
    start = ORACLE["inputs"]
    weight = tensor(start["W_init"]).T
    network = Network(nn.Flatten(), num_features=weight.shape[1], num_classes=start["K"]).double()
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(tensor(start["b_init"]))
    return network


def batch_of(inputs: dict[str, Any]) -> Batch:
    label, weak = torch.tensor(inputs["y_lb"]), tensor(inputs["x_w"])
    unlabelled = Unlabelled(
        {"weak": weak, "weak_2": tensor(inputs["x_s"])}, torch.arange(len(weak)), torch.full((len(weak),), -1)
    )
    return Batch(Samples({"weak": tensor(inputs["x_lb"])}, label, torch.arange(len(label))), unlabelled)


def test_every_step_is_that_of_the_peers_code() -> None:
    settings, network = ORACLE["inputs"], linear_network()
    average = WeightAverage(network, decay=settings["ema_m"], warmup=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings["lr"])
    method = MeanTeacher(rule=Uniform(lambda_u=settings["lambda_u"]), ramp=settings["unsup_warm_up"])
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"][VARIANT]
        step = Step(network, average.network, number, settings["num_train_iter"], lambda *_: None, lambda *_: None)
        losses = method.losses(batch_of(recorded["inputs"]), step)
        assert losses["supervised"].value.item() == pytest.approx(expected["sup_loss"], rel=1e-7)
        assert losses["consistency"].value.item() == pytest.approx(expected["unsup_loss"], rel=1e-7)
        assert losses["consistency"].weight == pytest.approx(settings["lambda_u"] * expected["unsup_warmup"])
        assert losses.total.item() == pytest.approx(expected["total_loss"], rel=1e-7)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        average.after_step(step)
        for name, of in (("", network), ("_ema", average.network)):
            torch.testing.assert_close(of.classifier.weight.T, tensor(expected[f"state_W{name}"]), rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(of.classifier.bias, tensor(expected[f"state_b{name}"]), rtol=1e-7, atol=1e-7)
    assert losses["consistency"].weight > 20  # the loss took part


def test_unlabelled_images_leave_running_statistics_as_they_are() -> None:
    extractor = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    network = Network(extractor, num_features=3, num_classes=6).double()
    average = WeightAverage(network, decay=0.9, warmup=False)
    batch = batch_of(ORACLE["steps"][0]["inputs"])
    step = Step(network, average.network, 0, 10, lambda *_: None, lambda *_: None)
    losses = MeanTeacher(rule=Uniform()).losses(batch, step)
    expected = 0.9 * torch.zeros(4).double() + 0.1 * batch.labelled.views["weak"].mean(dim=0)
    torch.testing.assert_close(extractor[0].running_mean, expected)
    assert losses["consistency"].value.requires_grad
    assert extractor[0].track_running_stats


@pytest.mark.parametrize(("options", "message"), [({"ramp": -1}, "ramp=-1"), ({"ramp": 1.5}, "ramp=1.5")])
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MeanTeacher(rule=Uniform(), **options)
