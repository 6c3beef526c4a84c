"""DASO against a slow numpy reference, in value, gradient and state, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.given import step_of
from tests.methods.long_tail import (
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

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import DASO
from layermatch.networks import Network
from layermatch.policies import FixedThreshold

VIEWS = ("weak", "strong")
QUEUE, TEMPERATURE, DISTRIBUTION, PERIOD, WARMUP = 3, 0.5, 0.7, 2, 0.2
STEPS = 8


def make(threshold: float = 0.6, **options: object) -> tuple[DASO, Network, Network]:
    given: dict[str, object] = {
        "queue": QUEUE, "temperature": TEMPERATURE, "distribution_temperature": DISTRIBUTION, "period": PERIOD,
        "warmup": WARMUP, "align_weight": 0.5,
    }  # fmt: skip
    method = DASO(policy=FixedThreshold(threshold=threshold), rule=Uniform(), **{**given, **options})  # type: ignore[arg-type]
    network, average = network_of({}), network_of({}, seed=1)
    method.prepare(network, PROBLEM)
    return method.double(), network, average


def cosines(features: Floats, prototypes: Floats) -> Floats:
    found = np.zeros((len(features), K))
    for i, z in enumerate(features):
        for k, c in enumerate(prototypes):
            lengths = np.linalg.norm(z) * np.linalg.norm(c)
            found[i, k] = z @ c / lengths if lengths else 0.0
    return found


class Reference:
    """The algorithm, with lists for queues and loops for images."""

    def __init__(self, network: Network, average: Network, *, threshold: float, warmup: float = WARMUP) -> None:
        self.network, self.average, self.threshold, self.warmup = network, average, threshold, warmup
        self.queues: list[list[Floats]] = [[] for _ in range(K)]
        self.counts, self.shares = np.zeros(K), np.zeros(K)

    def see(self, batch: Batch, *, number: int) -> None:
        """The forward of a step: queues, pseudo-labels and mask."""
        images = {name: view.flatten(1).numpy() for name, view in batch.unlabelled.views.items()}
        labelled = batch.labelled.views["weak"].flatten(1).numpy()
        for z, k in zip(
            labelled @ self.average.extractor.map.weight.detach().numpy().T, batch.labelled.label, strict=True
        ):
            self.queues[int(k)] = [*self.queues[int(k)], z][-QUEUE:]
        none = np.zeros(labelled.shape[1])
        self.prototypes = np.stack([np.mean(queue, axis=0) if queue else none for queue in self.queues])
        self.labelled, self.label, self.strong = labelled, batch.labelled.label.numpy(), images["strong"]
        features = images["weak"] @ self.network.extractor.map.weight.detach().numpy().T
        probs = softmax(self.logits(features))
        self.blends = number / 10 >= self.warmup
        self.semantic = softmax(cosines(features, self.prototypes) / TEMPERATURE)
        if self.blends:
            scaled = self.shares ** (1 / DISTRIBUTION)
            upsilon = scaled / scaled.max() if scaled.any() else scaled
            for u in range(N):
                share = upsilon[probs[u].argmax()]
                probs[u] = (1 - share) * probs[u] + share * self.semantic[u]
        self.hard, self.mask = probs.argmax(axis=1), probs.max(axis=1) >= self.threshold

    def logits(self, features: Floats) -> Floats:
        head = self.network.classifier
        return features @ head.weight.detach().numpy().T + head.bias.detach().numpy()

    def losses(self, extractor: Floats) -> tuple[float, float, float]:
        """Supervised, pseudo-label and alignment loss as functions of the extractor's weight."""
        supervised = cross_entropies(self.logits(self.labelled @ extractor.T), self.label).sum() / B
        strong = self.strong @ extractor.T
        pseudo = (self.mask * cross_entropies(self.logits(strong), self.hard)).sum() / N
        align = cross_entropies(cosines(strong, self.prototypes) / TEMPERATURE, self.semantic).sum() / N
        return supervised, pseudo, align if self.blends else 0.0

    def end(self, *, number: int) -> None:
        self.counts += np.bincount(self.hard, minlength=K)
        if (number + 1) % PERIOD == 0:
            self.shares, self.counts = self.counts / self.counts.sum(), np.zeros(K)


@pytest.mark.parametrize("threshold", [1e-6, 0.6, 1.0])  # all count, some, none
@pytest.mark.parametrize("warmup", [0.0, 0.4])
def test_every_step_is_that_of_the_paper(threshold: float, warmup: float) -> None:
    method, network, average = make(threshold, warmup=warmup)
    reference = Reference(network, average, threshold=threshold, warmup=warmup)
    changed = 0
    for number in range(STEPS):
        batch = batch_of(VIEWS, seed=number, scale=1.5)
        step = step_of(network, number, 10, average=average)
        reference.see(batch, number=number)
        losses = method.losses(batch, step)
        extractor = network.extractor.map.weight.detach().numpy()
        supervised, pseudo, align = reference.losses(extractor)
        assert losses["supervised"].value.item() == pytest.approx(supervised, rel=1e-9)
        assert losses["pseudo"].value.item() == pytest.approx(pseudo, rel=1e-9, abs=1e-12)
        assert ("alignment" in losses) == reference.blends == (number >= 10 * warmup)
        if reference.blends:
            assert losses["alignment"].value.item() == pytest.approx(align, rel=1e-9)
        np.testing.assert_allclose(method.queue.prototypes.numpy(), reference.prototypes, rtol=1e-9, atol=1e-12)
        network.zero_grad()
        losses.total.backward()
        for place in [(0, 0), (4, 2)]:
            wanted = slope(lambda moved: np.dot(reference.losses(moved), (1, 1, 0.5)), extractor, place)
            assert network.extractor.map.weight.grad[place].item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)
        linear = network.classifier(network(batch.unlabelled.views["weak"], heads=()).features).argmax(dim=1)
        changed += int((linear.numpy() != reference.hard).sum())
        reference.end(number=number)
        for state in (method.queue, method.shares, method):
            state.after_step(step)
        np.testing.assert_allclose(method.shares.value.numpy(), reference.shares, rtol=1e-6)
        with torch.no_grad():
            network.extractor.map.weight -= 0.1 * network.extractor.map.weight.grad
    assert changed > 10  # the blend has given other classes than the classifier


def test_a_step_that_is_not_applied_leaves_the_state_as_it_was() -> None:
    method, network, average = make(warmup=0.0)
    states = (method.queue, method.shares, method)
    for number in range(2):
        step = step_of(network, number, 10, average=average)
        method.losses(batch_of(VIEWS, seed=number), step)
        for state in states:
            state.after_step(step)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert len(before) == 4
    losses = method.losses(batch_of(VIEWS, seed=7), step_of(network, 2, 10, average=average))
    for state in states:
        state.discard_step()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    again = method.losses(batch_of(VIEWS, seed=7), step_of(network, 2, 10, average=average))
    assert {name: term.value.item() for name, term in losses.items()} == {
        name: term.value.item() for name, term in again.items()
    }


def test_a_probability_of_zero_is_no_infinite_logit() -> None:
    method, network, average = make(warmup=0.0)
    with torch.no_grad():
        network.classifier.weight *= 1e4
    seen: dict[str, torch.Tensor] = {}
    step = step_of(network, average=average)
    step = step.__class__(network, average, 0, 10, lambda *_: None, seen.__setitem__)
    assert method.losses(batch_of(VIEWS), step)["pseudo"].value.isfinite()
    assert seen["weak_views"].isfinite().all()
    bad = batch_of(VIEWS)
    bad.unlabelled.views["weak"][:] = float("nan")
    method.losses(bad, step)
    assert not seen["weak_views"].isfinite().any()  # but what is no number stays none


def test_under_grad_relu_the_classifier_learns_from_labels_alone() -> None:
    rule = SeparateLosses(avg_clustering="none")
    method = DASO(policy=FixedThreshold(threshold=0.3), rule=rule, warmup=0.0)
    network = network_of({})
    method.prepare(network, PROBLEM)
    losses = method.double().losses(batch_of(VIEWS), step_of(network))
    losses.of("pseudo_labels").backward()
    assert network.classifier.weight.grad is None
    assert network.extractor.map.weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue": 0}, "^queue=0 is not legal"),
        ({"temperature": 0}, "^temperature=0 is not legal"),
        ({"distribution_temperature": -1}, "^distribution_temperature=-1 is not legal"),
        ({"align_weight": -1}, "^align_weight=-1 is not legal"),
        ({"warmup": 2}, "^warmup=2 is not legal"),
        ({"period": 0.5}, "^period=0.5 is not legal"),
        ({"skip_masked": True, "forward": "split"}, "^skip_masked=true is not legal with DASO"),
    ],
)
def test_options_that_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DASO(policy=FixedThreshold(), rule=Uniform(), **options)  # type: ignore[arg-type]
