"""Mean Teacher against numbers of the peers' own code, step by step: losses, weights and averaged weights."""

from __future__ import annotations

import pytest
import torch
from tests import oracle
from tests.given import batch_from, linear_network, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.layerwise import Uniform
from layermatch.methods import MeanTeacher
from layermatch.networks import Network
from layermatch.parts import WeightAverage

ORACLE = oracle.read("mean_teacher")
#: The variant that follows the paper.
VARIANT = ORACLE["paper_form"]
MAP = ORACLE["inputs"]["W_init"], ORACLE["inputs"]["b_init"]
VIEWS = {"weak": "x_w", "weak_2": "x_s"}


@pytest.mark.oracle
def test_every_step_is_that_of_the_peers_code() -> None:
    settings, network = ORACLE["inputs"], linear_network(*MAP)
    average = WeightAverage(network, decay=settings["ema_m"], warmup=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings["lr"])
    method = MeanTeacher(rule=Uniform(lambda_u=settings["lambda_u"]), ramp=settings["unsup_warm_up"])
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"][VARIANT]
        step = step_of(network, number, settings["num_train_iter"], average=average.network)
        losses = method.losses(batch_from(recorded["inputs"], **VIEWS), step)
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
    batch = batch_from(ORACLE["steps"][0]["inputs"], **VIEWS)
    step = step_of(network, average=average.network)
    losses = MeanTeacher(rule=Uniform()).losses(batch, step)
    expected = 0.9 * torch.zeros(4).double() + 0.1 * batch.labelled.views["weak"].mean(dim=0)
    torch.testing.assert_close(extractor[0].running_mean, expected)
    assert losses["consistency"].value.requires_grad
    assert extractor[0].track_running_stats


@pytest.mark.parametrize(("options", "message"), [({"ramp": -1}, "ramp=-1"), ({"ramp": 1.5}, "ramp=1.5")])
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MeanTeacher(rule=Uniform(), **options)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_teacher_normalises_as_the_student_does(is_frozen: bool) -> None:
    """By its own batch's statistics, or by running ones where the student's layer has them for good."""
    network = Network(nn.BatchNorm1d(4), num_features=4, num_classes=6).double()
    network.extractor.train(not is_frozen)
    average = WeightAverage(network, decay=0.9, warmup=False)
    before = {name: value.clone() for name, value in average.network.state_dict().items()}
    batch = batch_from(ORACLE["steps"][0]["inputs"], **VIEWS)
    losses = MeanTeacher(rule=Uniform(), ramp=0).losses(batch, step_of(network, average=average.network))

    def normalised(rows: Tensor) -> Tensor:
        mean, variance = (0, 1) if is_frozen else (rows.mean(dim=0), rows.var(dim=0, unbiased=False))
        return (rows - mean) / (variance + 1e-5) ** 0.5

    views = (normalised(batch.unlabelled.views[name]) for name in ("weak", "weak_2"))
    teacher, student = (network.classifier(rows).softmax(dim=1) for rows in views)
    expected = (teacher - student).square().mean()
    torch.testing.assert_close(losses["consistency"].value, expected, check_dtype=False)
    after = average.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module.training for module in average.network.modules())
