"""SoftMatch's policy against numbers of the peers' own code, step by step, and at its edges."""

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
from layermatch.policies import GaussianWeight, Predictions

ORACLE = oracle.read("softmatch")
OF_TORCHSSL = {"weight_target": "predictions", "weight_start": "uniform", "statistics": "unaligned", "n_sigma": 2.0}
#: The variants, the options that give them, and what is added to target and average.
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "usb/m0.999_nsigma2": ({"n_sigma": 2.0}, 1e-6),
    "usb/m0.8_nsigma2": ({"decay": 0.8, "n_sigma": 2.0}, 1e-6),
    "usb/m0.8_nsigma1": ({"decay": 0.8}, 1e-6),
    "usb/m0.8_nsigma2_model": ({"decay": 0.8, "n_sigma": 2.0, "weight_target": "predictions"}, 1e-6),
    "torchssl/m0.999": (OF_TORCHSSL, 0),
    "torchssl/m0.8": ({**OF_TORCHSSL, "decay": 0.8}, 0),
    "alternative/m0.8_uniform_start": ({"decay": 0.8, "weight_start": "uniform"}, 1e-6),
    "alternative/m0.8_unaligned_statistics": ({"decay": 0.8, "statistics": "unaligned"}, 1e-6),
}


def prepared(num_classes: int = 2, **options: Any) -> GaussianWeight:
    policy = GaussianWeight(**options)
    policy.prepare(problem_of(num_classes))
    return policy


def predictions(confidence: list[float]) -> Predictions:
    """Two classes, taken in turn, so that the average prediction is uniform."""
    rows = [[c, 1 - c] if i % 2 else [1 - c, c] for i, c in enumerate(confidence)]
    return Predictions(torch.tensor(rows), torch.arange(len(rows)))


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_peers_code(variant: str) -> None:
    options, epsilon = VARIANTS[variant]
    network, policy = network_of(6), GaussianWeight(**options)
    policy.alignment.epsilon = epsilon
    method = PseudoLabelling(policy=policy, rule=Uniform())
    method.prepare(network, problem_of(6))
    in_double(policy, 6)
    for recorded in ORACLE["steps"]:
        expected, batch = oracle.expected(ORACLE, recorded, variant), batch_of_logits(recorded["inputs"])
        losses = method.losses(batch, step_of(network))
        probs = tensor(recorded["inputs"]["logits_w"]).softmax(dim=1)
        found = {
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["pseudo"].value, "total_loss": losses.total,
            "probs_x_ulb_w": policy.alignment(probs), "state_p_model": policy.alignment.model_average,
            "state_p_target": policy.alignment.wanted, "pseudo_label": probs.argmax(dim=1).double(),
        }  # fmt: skip
        losses.total.backward()
        found["grad_logits_s"] = batch.unlabelled.views["strong"].grad
        finish(method)
        found |= {"state_mu": policy.mean.value, "state_var": policy.variance.value}
        assert set(expected) - set(found) == {"mask"}
        for key in expected.keys() - {"mask"}:
            torch.testing.assert_close(found[key], tensor(expected[key]), rtol=1e-7, atol=1e-7, msg=key)
        below = (policy.alignment(probs).amax(dim=1) - policy.mean.value).clamp(max=0)
        mask = torch.exp(-below.square() * policy.n_sigma**2 / (2 * policy.variance.value))
        torch.testing.assert_close(mask, tensor(expected["mask"]), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("target", ["uniform", "none"])
def test_the_first_step_by_hand(target: str) -> None:
    policy = prepared(decay=0.5, weight_target=target)
    found = policy(predictions([0.9, 0.9, 0.5, 0.5]))
    mean = 0.5 * 0.5 + 0.5 * 0.7
    variance = 0.5 + 0.5 * (4 * 0.04 / 3)
    low = torch.exp(torch.tensor(-((0.5 - mean) ** 2) / (2 * variance)))
    torch.testing.assert_close(found.weight, torch.tensor([1.0, 1.0, low, low]))
    assert found.label.tolist()[:2] == [1, 0]


def test_the_label_is_not_of_aligned_probabilities() -> None:
    policy = prepared()
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    found = policy(Predictions(probs, torch.arange(2)))
    assert policy.alignment(probs).argmax(dim=1).tolist() == [0, 1]
    assert found.label.tolist() == found.target.tolist() == [0, 0]
    torch.testing.assert_close(found.confidence, torch.tensor([0.9, 0.6]))


def test_confidences_that_are_all_the_same_count_in_full() -> None:
    policy = prepared(decay=0.0)
    assert policy(predictions([0.75] * 4)).weight.tolist() == [1] * 4


def test_a_step_that_is_not_applied_leaves_it_as_it_was() -> None:
    policy, twin = prepared(decay=0.9), prepared(decay=0.9)
    for confidence in (0.6, 0.8, 0.95):
        policy(predictions([float("nan")] * 4))
        finish(policy, is_applied=False)
        for each in (policy, twin):
            each(predictions([0.5, 0.5, confidence, confidence]))
            finish(each)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1}, "decay=1 is not legal"),
        ({"n_sigma": 0}, "n_sigma=0 is not legal"),
        ({"weight_target": "labelled"}, "weight_target='labelled' is not legal"),
        ({"weight_start": "zero"}, "weight_start='zero' is not legal"),
        ({"statistics": "none"}, "statistics='none' is not legal"),
        (
            {"statistics": "aligned", "weight_target": "none"},
            "statistics=aligned has no effect with weight_target=none",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        GaussianWeight(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("options", [{}, {"weight_target": "none"}, {"statistics": "unaligned"}])
def test_a_batch_of_one_image_has_a_variance_of_0(options: dict[str, Any]) -> None:
    policy = prepared(decay=0.9, **options)
    labels = policy(predictions([0.8]))
    finish(policy, step_of(network_of(2)))
    assert labels.weight.isfinite().all()
    assert policy.variance.value.item() == pytest.approx(0.9)  # from 1
