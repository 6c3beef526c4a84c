"""ABC against a slow numpy reference, in value and gradient; and which head does what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.given import step_of
from tests.methods.long_tail import (
    COUNTS,
    PROBLEM,
    B,
    Floats,
    K,
    N,
    batch_of,
    cross_entropies,
    network_of,
    softmax,
)
from tests.slopes import slope

from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import AuxiliaryBalancedClassifier, PseudoLabelling
from layermatch.methods.auxiliary_balanced import BALANCED
from layermatch.networks import Network
from layermatch.parts import Losses
from layermatch.policies import FixedThreshold

VIEWS = ("weak", "strong", "strong_2")


def make(
    threshold: float = 0.6, lambda_u: float = 1.0, **options: object
) -> tuple[AuxiliaryBalancedClassifier, Network]:
    method = AuxiliaryBalancedClassifier(
        policy=FixedThreshold(threshold=threshold),
        rule=Uniform(lambda_u=lambda_u),
        balanced_threshold=threshold,
    )
    network = network_of(method.heads(PROBLEM))
    method.prepare(network, PROBLEM)
    return method.double(), network


def masks(label: Floats, hard: Floats, progress: float) -> tuple[Floats, Floats]:
    """The draws of a step: torch's, in the order in which the method makes them, with rates written out."""
    rates = [min(COUNTS) / count for count in COUNTS]
    annealed = [1 - progress * (1 - rate) for rate in rates]
    of_pool = torch.bernoulli(torch.tensor([annealed[k] for k in hard], dtype=torch.float64))
    of_labels = torch.bernoulli(torch.tensor([rates[k] for k in label], dtype=torch.float64))
    return of_labels.numpy(), of_pool.numpy()


class Reference:
    """The losses of the auxiliary head as functions of the extractor's and the head's weights."""

    def __init__(self, network: Network, *, number: int, threshold: float, seed: int) -> None:
        self.batch = batch_of(VIEWS)
        self.images = {name: view.flatten(1).numpy() for name, view in self.batch.unlabelled.views.items()}
        self.labelled = self.batch.labelled.views["weak"].flatten(1).numpy()
        self.label = self.batch.labelled.label.numpy()
        self.weights = [network.extractor.map.weight, network.get_submodule(BALANCED).weight]
        extractor, head = (weight.detach().numpy() for weight in self.weights)
        self.target = softmax(self.images["weak"] @ extractor.T @ head.T)  # without a gradient
        hard = self.target.argmax(axis=1)
        torch.manual_seed(seed)
        self.kept_labels, kept = masks(self.label, hard, number / 10)
        self.weight = (self.target.max(axis=1) >= threshold) * kept

    def losses(self, extractor: Floats, head: Floats) -> tuple[float, float]:
        supervised = consistency = 0.0
        for i in range(B):
            logits = self.labelled[i : i + 1] @ extractor.T @ head.T
            supervised += self.kept_labels[i] * cross_entropies(logits, self.label[i : i + 1])[0] / B
        for view in ("strong", "strong_2"):
            for u in range(N):
                logits = self.images[view][u : u + 1] @ extractor.T @ head.T
                consistency += self.weight[u] * cross_entropies(logits, self.target[u : u + 1])[0] / N
        return supervised, consistency


def own(losses: Losses) -> torch.Tensor:
    return losses["supervised_balanced"].weighted + losses["consistency_balanced"].weighted


@pytest.mark.parametrize("threshold", [1e-6, 0.6, 1.0])  # all count, some, none
@pytest.mark.parametrize(("number", "lambda_u"), [(0, 1.0), (5, 0.5), (10, 2.0)])
def test_losses_and_gradients_are_those_of_the_paper(threshold: float, number: int, lambda_u: float) -> None:
    method, network = make(threshold, lambda_u)
    reference = Reference(network, number=number, threshold=threshold, seed=3)
    torch.manual_seed(3)
    losses = method.losses(reference.batch, step_of(network, number, 10))
    extractor, head = (weight.detach().numpy() for weight in reference.weights)
    supervised, consistency = reference.losses(extractor, head)
    assert losses["supervised_balanced"].value.item() == pytest.approx(supervised, abs=1e-10)
    assert losses["consistency_balanced"].value.item() == pytest.approx(consistency, abs=1e-10)
    assert (consistency == 0) == (threshold == 1.0)
    own(losses).backward()
    for which, place in [(0, (0, 0)), (0, (4, 2)), (1, (0, 1)), (1, (3, 4))]:
        ways = (lambda moved: reference.losses(moved, head), lambda moved: reference.losses(extractor, moved))
        wanted = slope(lambda moved: np.dot(ways[which](moved), (1, lambda_u)), (extractor, head)[which], place)  # noqa: B023
        assert reference.weights[which].grad[place].item() == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    # The features are not detached, and the classifier learns nothing of the balanced losses.
    assert reference.weights[0].grad.any()
    assert network.classifier.weight.grad is None


def test_the_family_learns_as_without_the_second_head() -> None:
    method, network = make()
    losses = method.losses(batch_of(VIEWS), step_of(network))
    plain = PseudoLabelling(policy=FixedThreshold(threshold=0.6), rule=Uniform())
    plain.prepare(network, PROBLEM)
    batch = batch_of(VIEWS)
    del batch.unlabelled.views["strong_2"]
    alone = plain.losses(batch, step_of(network))
    for name in alone:
        assert losses[name].value.item() == pytest.approx(alone[name].value.item(), rel=1e-12)


def test_the_auxiliary_head_is_evaluated_and_does_not_teach() -> None:
    method, network = make()
    images = batch_of(VIEWS).labelled.views["weak"]
    features = network(images, heads=()).features
    out = method.outputs(network, images)
    torch.testing.assert_close(out.logits, network.get_submodule(BALANCED)(features))
    torch.testing.assert_close(method.teach(images, network), network.classifier(features))
    assert not torch.allclose(out.logits, network.classifier(features))


def test_every_class_counts_alike_in_the_long_run() -> None:
    """Labels that come as often as the labelled images are masked to equal shares."""
    method, _ = make()
    torch.manual_seed(0)
    label = torch.multinomial(torch.tensor(COUNTS, dtype=torch.float64), 40_000, replacement=True)
    kept = torch.bincount(label, weights=torch.bernoulli(method.rates[label]), minlength=K)
    expected = 40_000 * min(COUNTS) / sum(COUNTS)
    assert (abs(kept - expected) < 5 * expected**0.5).all()


def test_labels_without_a_tail_are_never_masked() -> None:
    method = AuxiliaryBalancedClassifier(policy=FixedThreshold(), rule=Uniform())
    network = network_of(method.heads(PROBLEM))
    method.prepare(network, PROBLEM.__class__(*list(vars(PROBLEM).values())[:6]))
    assert method.rates.tolist() == [1.0] * K


def test_under_grad_relu_its_own_head_still_learns() -> None:
    method = AuxiliaryBalancedClassifier(
        policy=FixedThreshold(threshold=0.3), rule=SeparateLosses(avg_clustering="none"), balanced_threshold=0.3
    )
    network = network_of(method.heads(PROBLEM))
    method.prepare(network, PROBLEM)
    losses = method.double().losses(batch_of(VIEWS), step_of(network))
    losses.of("pseudo_labels").backward()
    assert network.classifier.weight.grad is None
    assert network.get_submodule(BALANCED).weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balanced_threshold": 0}, "^balanced_threshold=0 is not legal"),
        ({"balanced_threshold": "high"}, "^balanced_threshold='high' is not legal"),
        ({"skip_masked": True, "forward": "split"}, "^skip_masked=true is not legal with ABC"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AuxiliaryBalancedClassifier(policy=FixedThreshold(), rule=Uniform(), **options)  # type: ignore[arg-type]
