"""ReFixMatch's policy against a loop in numpy, alone and in the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import given
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import PseudoLabelling
from layermatch.networks import Network, Output
from layermatch.policies import Predictions, ReFixMatch


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def reference(weak: np.ndarray, strong: np.ndarray, *, threshold: float, temperature: float) -> tuple[float, Tensor]:
    """The loss of the images below the threshold, and its gradient for the strong logits."""
    loss, grad = 0.0, np.zeros_like(strong)
    for i in range(len(weak)):
        if softmax(weak[i]).max() >= threshold:
            continue
        target, q = softmax(weak[i] / temperature), softmax(strong[i])
        loss += (target * (np.log(target) - np.log(q))).sum() / len(weak)
        grad[i] = (q - target) / len(weak)
    return loss, torch.from_numpy(grad)


def drawn(rows: int, num_classes: int, seed: int) -> Tensor:
    return 3 * torch.randn(rows, num_classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("threshold", [1e-9, 0.9, 1.0])  # all accepted, some, none
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_images_below_the_threshold_follow_their_weak_view(
    temperature: float, threshold: float, num_classes: int
) -> None:
    weak, strong = drawn(30, num_classes, 0), drawn(30, num_classes, 1).requires_grad_()
    policy = ReFixMatch(threshold=threshold, temperature=temperature, weight=0.7)
    predictions = Predictions(weak.softmax(dim=1), torch.arange(30))
    pseudo_labels = policy(predictions)
    term = policy.losses(Output(strong, {"classifier": strong}), pseudo_labels, predictions)["low_confidence"]
    term.value.backward()
    expected, grad = reference(weak.numpy(), strong.detach().numpy(), threshold=threshold, temperature=temperature)
    assert term.value.item() == pytest.approx(expected, rel=1e-10, abs=1e-15)
    torch.testing.assert_close(strong.grad, grad, rtol=1e-9, atol=1e-13)
    assert term.weight == 0.7
    assert (expected == 0) == (threshold < 0.1)


def batch_of(features: int) -> Batch:
    views = {"weak": drawn(12, features, 2), "strong": drawn(12, features, 3)}
    return given.batch_of(drawn(4, features, 4), [0, 1, 2, 0], views)


@pytest.mark.parametrize(("rule", "reaches"), [(Uniform, True), (SeparateLosses, False)])
def test_under_grad_relu_the_classifier_gets_the_gradient_of_the_labels_alone(rule: type, reaches: bool) -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(6, 4), num_features=4, num_classes=3).double()
    rule = rule() if rule is Uniform else rule(avg_clustering="none")
    method = PseudoLabelling(policy=ReFixMatch(threshold=0.6), rule=rule)
    method.prepare(network, given.problem_of(3, 4, num_labelled=4, num_unlabelled=12))
    losses = method.losses(batch_of(6), given.step_of(network))
    assert losses["low_confidence"].value > 0
    assert losses["low_confidence"].reaches == rule.reached
    weight = network.classifier.weight
    whole, of_labels = (
        torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (losses.total, losses.of("labels"))
    )
    assert torch.allclose(whole, of_labels, rtol=1e-12, atol=0) != reaches
    torch.testing.assert_close(whole, torch.autograd.grad(losses.reaching("classifier"), weight)[0])


def test_it_reads_masked_strong_views_so_they_must_be_sent() -> None:
    with pytest.raises(UserError, match="skip_masked=true is not legal with ReFixMatch"):
        PseudoLabelling(policy=ReFixMatch(), rule=Uniform(), forward="split", skip_masked=True)


@pytest.mark.parametrize("options", [{"threshold": 0}, {"temperature": 0}, {"weight": -1}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(options))}="):
        ReFixMatch(**options)
