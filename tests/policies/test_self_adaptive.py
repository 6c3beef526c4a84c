"""FreeMatch's policy against numbers of the peers' own code, step by step, and at its edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, finish, in_double, network_of, problem_of, step_of
from tests.oracle import tensor

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.networks import Output
from layermatch.policies import Predictions, SelfAdaptiveThreshold

ORACLE = oracle.read("freematch")
#: The variants, and the options that give them. The clipped one of USB has another rule, which no paper has.
VARIANTS: dict[str, dict[str, Any]] = {
    "usb/m0.999": {"fairness": 0.001},
    "usb/m0.7": {"decay": 0.7, "fairness": 0.01},
    "torchssl/m0.999": {"fairness": 0.01},
    "torchssl/m0.999_svhn": {"fairness": 0.01, "low": 0.9, "high": 0.95},
    "paper/m0.5_svhn_clamp": {"decay": 0.5, "fairness": 0.01, "low": 0.9, "high": 0.95},
}


def random_probs(seed: int, num: int = 12, num_classes: int = 3) -> torch.Tensor:
    return (2 * torch.randn(num, num_classes, generator=torch.Generator().manual_seed(seed))).softmax(dim=1)


def prepared(num_classes: int = 3, **options: Any) -> SelfAdaptiveThreshold:
    policy = SelfAdaptiveThreshold(**options)
    policy.prepare(problem_of(num_classes))
    return policy


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_step_is_that_of_the_peers_code(variant: str) -> None:
    network, policy = network_of(6), SelfAdaptiveThreshold(**VARIANTS[variant])
    method = PseudoLabelling(policy=policy, rule=Uniform())
    method.prepare(network, problem_of(6))
    in_double(policy, 6)
    for recorded in ORACLE["steps"]:
        expected, batch = oracle.expected(ORACLE, recorded, variant), batch_of_logits(recorded["inputs"])
        losses = method.losses(batch, step_of(network))
        found = {
            "sup_loss": losses["supervised"].value, "unsup_loss": losses["pseudo"].value,
            "ent_loss": losses["fairness"].value, "total_loss": losses.reaching("extractor"),
        }  # fmt: skip
        losses.total.backward()
        found["grad_logits_s"] = batch.unlabelled.views["strong"].grad
        given = Predictions(tensor(recorded["inputs"]["logits_w"]).softmax(dim=1), torch.arange(24))
        finish(method)
        found |= {
            "state_time_p": policy.confidence.value, "state_p_model": policy.probs.value,
            "state_label_hist": policy.histogram.value,
        }  # fmt: skip
        if "class_threshold" in expected:
            found["class_threshold"] = policy.thresholds()
        found["mask"] = (given.probs_weak.amax(dim=1) >= policy.thresholds()[given.probs_weak.argmax(dim=1)]).double()
        assert set(expected) - set(found) <= {"pseudo_label"}
        # Gradients of the paper's variant are central differences, good to 1e-8.
        for key, value in found.items():
            torch.testing.assert_close(value, tensor(expected[key]), rtol=1e-7, atol=1e-7, msg=key)


@pytest.mark.parametrize(("rule", "reaches"), [(Uniform, True), (SeparateLosses, False)])
def test_grad_relu_holds_for_the_fairness_loss(rule: Any, reaches: bool) -> None:
    network = network_of(6)
    method = PseudoLabelling(policy=SelfAdaptiveThreshold(decay=0.7), rule=rule())
    method.prepare(network, problem_of(6))
    method.double()
    batch = batch_of_logits(ORACLE["steps"][0]["inputs"])
    term = method.losses(batch, step_of(network))["fairness"]
    assert term.reaches == ({"extractor", "classifier"} if reaches else {"extractor"})
    term.value.backward()
    assert batch.unlabelled.views["strong"].grad.abs().sum() > 0
    assert (network.classifier.weight.grad is not None) == reaches


def test_without_fairness_there_is_no_loss() -> None:
    policy = prepared(fairness=0)
    given = Predictions(random_probs(0), torch.arange(12))
    assert not policy.losses(Output(torch.zeros(12, 3), {"classifier": torch.zeros(12, 3)}), policy(given), given)


def test_the_most_predicted_class_has_the_highest_threshold() -> None:
    policy = prepared(decay=0.0)
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.4, 0.6, 0.0]])
    found = policy(Predictions(probs, torch.arange(3)))
    # tau = 2/3; p = (0.6, 0.3, 0.1): thresholds 2/3, 1/3, 1/9.
    assert found.weight.tolist() == [1, 0, 1]
    finish(policy)
    torch.testing.assert_close(policy.thresholds(), torch.tensor([2 / 3, 1 / 3, 1 / 9]))


def test_at_the_start_every_class_has_the_same_threshold() -> None:
    assert prepared(4).thresholds().tolist() == [0.25] * 4


def test_a_step_that_is_not_applied_leaves_it_as_it_was() -> None:
    policy, twin = prepared(decay=0.9), prepared(decay=0.9)
    for seed in range(3):
        policy(Predictions(torch.full((12, 3), float("nan")), torch.arange(12)))
        finish(policy, is_applied=False)
        for each in (policy, twin):
            each(Predictions(random_probs(seed), torch.arange(12)))
            finish(each)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(policy.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1}, "decay=1 is not legal"),
        ({"fairness": -1}, "fairness=-1 is not legal"),
        ({"low": 2}, "low=2 is not legal"),
        ({"high": -1}, "high=-1 is not legal"),
        ({"low": 0.9, "high": 0.8}, "low=0.9 is not legal: give at most high=0.8"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SelfAdaptiveThreshold(**options)
    assert str(caught.value).startswith(message)
