"""AdaMatch against numbers of its authors' code, step by step: logits, averages, masks, losses and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, finish, in_double, network_of, problem_of, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import AdaMatch
from layermatch.policies import FixedThreshold, RelativeThreshold

ORACLE = oracle.read("adamatch")


class DependsOnTheBatch(nn.Module):
    """Gives images as logits, and others where labelled images come alone: what BatchNorm's statistics would do."""

    alone: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.alone if len(images) == len(self.alone) else images


class WithGivenDraws(AdaMatch):
    """Takes the random numbers of the authors' run."""

    given: dict[str, Tensor]

    def draw(self, name: str, logits: Tensor) -> Tensor:
        return self.given[name]


def prepared(kind: type[AdaMatch] = AdaMatch, rule: Any = Uniform, **options: Any) -> tuple[Any, Any, Any]:
    extractor = DependsOnTheBatch()
    network = network_of(6, extractor)
    method = kind(policy=RelativeThreshold(), rule=rule(), **options)
    method.prepare(network, problem_of(6, max_steps=10))
    in_double(method, 6)
    return method, network, extractor


def load(extractor: Any, method: Any, inputs: dict[str, Any]) -> None:
    names = ("logits_lb_alone", "logits_lb_strong_alone")
    extractor.alone = torch.cat([tensor(inputs[name]) for name in names])
    views = {"labelled": "uniform_weak", "labelled/strong": "uniform_strong"}
    method.given = {view: tensor(inputs[name]) for view, name in views.items()}


@pytest.mark.oracle
def test_every_step_is_that_of_the_authors_code() -> None:
    method, network, extractor = prepared(WithGivenDraws)
    policy, accepted = method.policy, 0
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"]["authors/default"]
        load(extractor, method, recorded["inputs"])
        batch = batch_of_logits(recorded["inputs"])
        losses = method.losses(batch, step_of(network, number, 10))
        aligned = policy.alignment(tensor(recorded["inputs"]["logits_w"]).softmax(dim=1))
        found = {
            "confidence_ratio": policy.thresholds()[0], "p_labeled": policy.alignment.wanted,
            "p_unlabeled": policy.alignment.model_average, "pseudo_labels": aligned,
            "pseudo_mask": (aligned.amax(dim=1) >= policy.thresholds()[0]).double(),
            "xe": losses.of("labels"), "xeu": losses["pseudo"].value, "loss": losses.total,
            "wu": torch.tensor(losses["pseudo"].weight).double(),
        }  # fmt: skip
        finish(method)
        assert set(expected) - set(found) == {"logit_sx_weak", "lr", "progress"}
        for key, value in found.items():
            torch.testing.assert_close(value, tensor(expected[key]), rtol=1e-7, atol=1e-7, msg=key)
        accepted += found["pseudo_mask"].sum()
    assert 0 < accepted < 24 * len(ORACLE["steps"])


@pytest.mark.oracle
def test_labelled_logits_lie_between_those_of_both_passes() -> None:
    method, network, extractor = prepared(WithGivenDraws)
    for recorded in ORACLE["steps"]:
        load(extractor, method, recorded["inputs"])
        views = {"labelled": "logits_lb", "labelled/strong": "logits_lb_strong", "strong": "logits_s"}
        sent = {view: tensor(recorded["inputs"][name]) for view, name in views.items()}
        out, _ = method.send(sent, tensor(recorded["inputs"]["logits_w"]), network)
        expected = tensor(recorded["outputs"]["authors/default"]["logit_sx_weak"])
        torch.testing.assert_close(out["labelled"].logits, expected, rtol=1e-7, atol=1e-7)


def test_draws_are_those_of_torchs_generator() -> None:
    method, network, extractor = prepared()
    load(extractor, method, ORACLE["steps"][0]["inputs"])
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    totals = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        totals.append(method.losses(batch, step_of(network)).total.item())
    assert totals[0] == totals[1] != totals[2]


def test_without_interpolation_there_is_one_pass() -> None:
    method, network, extractor = prepared(interpolate=False)
    extractor.alone = torch.full((16, 6), float("nan"), dtype=torch.float64)  # were it sent, it would be seen
    inputs = ORACLE["steps"][0]["inputs"]
    losses = method.losses(batch_of_logits(inputs), step_of(network, 5, 10))
    label = torch.tensor(inputs["y_lb"])
    expected = [nn.functional.cross_entropy(tensor(inputs[f"logits_lb{name}"]), label) for name in ("", "_strong")]
    torch.testing.assert_close(losses.of("labels"), torch.stack(expected).mean())
    assert losses["pseudo"].weight == 1


def test_the_second_pass_leaves_running_statistics_and_sends_a_gradient() -> None:
    norm = nn.BatchNorm1d(6)
    network = network_of(6, norm)
    method = AdaMatch(policy=RelativeThreshold(), rule=Uniform())
    method.prepare(network, problem_of(6, max_steps=10))
    in_double(method, 6)
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    weak = batch.labelled.views["weak"].requires_grad_()
    losses = method.losses(batch, step_of(network, 3, 10))
    everything = torch.cat([*batch.labelled.views.values(), *batch.unlabelled.views.values()])
    torch.testing.assert_close(norm.running_mean, 0.1 * everything.mean(dim=0).detach())
    losses.of("labels").backward()
    assert weak.grad.abs().sum() > 0
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("policy", [RelativeThreshold, FixedThreshold])
def test_grad_relu_gives_the_classifier_the_labels_gradient_alone(policy: Any) -> None:
    network = network_of(6, nn.BatchNorm1d(6))
    method = AdaMatch(policy=policy(threshold=0.1), rule=SeparateLosses(avg_clustering="none"))
    method.prepare(network, problem_of(6, max_steps=10))
    in_double(method, 6)
    parameter, gradients = network.classifier.weight, []
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    for source in (None, "labels"):
        torch.manual_seed(0)
        losses = method.losses(batch, step_of(network, 3, 10))
        loss = losses.total if source is None else losses.of(source)
        gradients.append(torch.autograd.grad(loss, parameter)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert losses["pseudo"].value > 0
    assert losses["pseudo"].weight == pytest.approx(0.654508497)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ramp": 2}, "ramp=2 is not legal"), ({"interpolate": 1}, "interpolate=1 is not legal"),
        ({"policy": FixedThreshold(), "forward": "split", "skip_masked": True}, "skip_masked=true needs interpolate="),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        AdaMatch(**({"policy": RelativeThreshold(), "rule": Uniform()} | options))
    assert str(caught.value).startswith(message)
