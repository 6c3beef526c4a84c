"""AdaMatch's policy in the form of USB, which is all that USB has of AdaMatch, and at its edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, finish, in_double, network_of, problem_of, step_of
from tests.oracle import tensor

from layermatch.errors import UserError
from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.policies import Predictions, RelativeThreshold

ORACLE = oracle.read("adamatch")


def prepared(num_classes: int = 2, **options: Any) -> RelativeThreshold:
    policy = RelativeThreshold(**options)
    policy.prepare(problem_of(num_classes))
    return policy


@pytest.mark.oracle
@pytest.mark.parametrize(("variant", "decay"), [("usb/m0.999", 0.999), ("usb/m0.8", 0.8)])
def test_every_step_of_usb(variant: str, decay: float) -> None:
    network, policy = network_of(6), RelativeThreshold(threshold=0.95, decay=decay, queue=None)
    method = PseudoLabelling(policy=policy, rule=Uniform())
    method.prepare(network, problem_of(6))
    in_double(policy, 6)
    for recorded in ORACLE["steps"]:
        expected, inputs = recorded["outputs"][variant], dict(recorded["inputs"])
        del inputs["logits_lb_strong"]
        batch = batch_of_logits(inputs)
        losses = method.losses(batch, step_of(network))
        aligned = policy.alignment(tensor(inputs["logits_w"]).softmax(dim=1))
        losses.total.backward()
        found = {
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["pseudo"].value, "total_loss": losses.total,
            "probs_x_ulb_w": aligned, "mask": (aligned.amax(dim=1) >= policy.thresholds()[0]).double(),
            "pseudo_label": aligned.argmax(dim=1).double(), "state_p_model": policy.alignment.model_average,
            "state_p_target": policy.alignment.wanted, "grad_logits_s": batch.unlabelled.views["strong"].grad,
        }  # fmt: skip
        finish(method)
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], tensor(value), rtol=1e-7, atol=1e-7, msg=key)


def test_the_threshold_is_a_share_of_the_confidence_in_labelled_images() -> None:
    policy = prepared(threshold=0.5)
    assert policy.thresholds() is None
    probs = torch.tensor([[0.5, 0.5], [0.61, 0.39], [0.39, 0.61]])
    found = policy(Predictions(probs, torch.arange(3), torch.tensor([[1.0, 0.0], [0.6, 0.4]])))
    assert found.weight.tolist() == [1, 1, 1]
    torch.testing.assert_close(policy.thresholds(), torch.tensor([0.4, 0.4]))
    strict = prepared(threshold=1.0)
    assert strict(Predictions(probs, torch.arange(3), torch.tensor([[1.0, 0.0]]))).weight.tolist() == [0, 0, 0]


def test_it_needs_the_predictions_of_labelled_images() -> None:
    assert RelativeThreshold.needs_labelled
    with pytest.raises(UserError, match="needs the predictions of labelled images"):
        prepared()(Predictions(torch.full((3, 2), 0.5), torch.arange(3)))


def test_a_step_that_is_not_applied_leaves_it_as_it_was() -> None:
    policy = prepared(queue=2)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy(Predictions(torch.full((3, 2), float("nan")), torch.arange(3), torch.full((3, 2), 0.5)))
    finish(policy, is_applied=False)
    for name, value in policy.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert len(before) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold=0 is not legal"),
        ({"decay": 1}, "decay=1 is not legal"),
        ({"queue": 0}, "queue=0 is not legal"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RelativeThreshold(**options)
    assert str(caught.value).startswith(message)
