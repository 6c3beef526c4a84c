"""FlexMatch against numbers of three published codes, and its state against a loop over the pool."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, finish, network_of, problem_of, step_of
from tests.oracle import Worst

from layermatch.errors import UserError
from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.parts import Problem
from layermatch.policies import CurriculumThresholds, Predictions

ORACLE = oracle.read("flexmatch")
NUM_CLASSES, POOL = 5, 60


@pytest.mark.oracle
@pytest.mark.parametrize("warmup", [True, False])
def test_every_step_is_that_of_the_peers_codes(warmup: bool) -> None:
    name, worst = "warmup" if warmup else "no_warmup", Worst()
    network = network_of(ORACLE["inputs"]["K"])
    policy = CurriculumThresholds(threshold=0.95, warmup=warmup)
    method = PseudoLabelling(policy=policy, rule=Uniform())
    method.prepare(network, problem_of(6, num_unlabelled=ORACLE["inputs"]["n_unlabelled"]))
    for number, recorded in enumerate(ORACLE["steps"]):
        usb, torchssl, tllib = (
            oracle.expected(ORACLE, recorded, f"{code}/{name}") for code in ("usb", "torchssl", "tllib")
        )
        formula = oracle.expected(ORACLE, recorded, f"formula/thresholds_{name}")
        batch, thresholds = batch_of_logits(recorded["inputs"]), policy.thresholds()
        worst.see(thresholds, formula["threshold_used"], "thresholds")
        probs = batch.unlabelled.views["weak"].detach().softmax(dim=1)
        found = policy(Predictions(probs, batch.unlabelled.indices))
        finish(policy, is_applied=False)
        losses = method.losses(batch, step_of(network, number))
        losses.total.backward()
        for other in (usb, tllib):
            assert found.weight.tolist() == other["mask"]
            assert found.label.tolist() == other["pseudo_label"]
        worst.see(thresholds[found.label], tllib["sample_threshold"], "thresholds of images")
        worst.see(found.weight.mean(), torchssl["mask_ratio"], "mask rate")
        for other in (usb, torchssl):
            worst.see(losses["supervised"].value, other["sup_loss"], "supervised")
            worst.see(losses["pseudo"].value, other["unsup_loss"], "pseudo")
            worst.see(losses.total, other["total_loss"], "total")
            worst.see(batch.unlabelled.views["strong"].grad, other["grad_logits_s"], "gradient")
        finish(policy, step_of(network, number))
        for other in (usb, torchssl, tllib):
            stored = torch.tensor(other["state_selected_label"])
            assert torch.equal(policy.said.latest, stored.where(stored >= 0, ORACLE["inputs"]["K"]))
    worst.say(f"flexmatch {name}")


def make(**options: object) -> CurriculumThresholds:
    policy = CurriculumThresholds(**{"threshold": 0.6, **options})  # type: ignore[arg-type]
    policy.prepare(Problem(NUM_CLASSES, 8, 4, POOL, (3, 8, 8), 100))
    return policy


def draw(number: int, size: int = 24) -> Predictions:
    """Images may be in a batch more than once, and the last class is never the most probable one."""
    generator = torch.Generator().manual_seed(number)
    logits = 2 * torch.randn(size, NUM_CLASSES, generator=generator)
    logits[:, -1] = -9
    return Predictions(logits.softmax(dim=1), torch.randint(POOL, (size,), generator=generator))


def end(policy: CurriculumThresholds) -> None:
    finish(policy)


def halves(predictions: Predictions) -> tuple[Predictions, Predictions]:
    cut = len(predictions.indices) // 2
    return (
        Predictions(predictions.probs_weak[:cut], predictions.indices[:cut]),
        Predictions(predictions.probs_weak[cut:], predictions.indices[cut:]),
    )


@pytest.mark.parametrize("warmup", [True, False])
def test_the_counts_are_those_of_a_pass_over_the_pool(warmup: bool) -> None:
    policy, latest = make(warmup=warmup), [-1] * POOL
    for number in range(30):
        counter = Counter(latest)
        largest = max(count for label, count in counter.items() if warmup or label >= 0) if len(counter) > 1 else POOL
        beta = [counter[label] / largest for label in range(NUM_CLASSES)]
        expected = [0.6 * b / (2 - b) for b in beta]
        assert policy.thresholds().tolist() == pytest.approx(expected, rel=1e-12)
        predictions = draw(number)
        found = policy(predictions)
        for row, index, weight in zip(
            predictions.probs_weak, predictions.indices.tolist(), found.weight.tolist(), strict=True
        ):
            label = int(row.argmax())
            assert weight == float(row[label] >= torch.tensor(expected[label], dtype=torch.float32))
            if row[label] >= 0.6:
                latest[index] = label
        end(policy)
        assert policy.said.latest.where(policy.said.latest < NUM_CLASSES, -1).tolist() == latest
    assert set(latest) == set(range(NUM_CLASSES - 1))


def test_accumulated_batches_are_one_step() -> None:
    whole, parts = make(), make()
    for number in range(6):
        predictions = draw(number)
        expected = whole(predictions)
        found = [parts(half) for half in halves(predictions)]
        assert torch.equal(torch.cat([part.weight for part in found]), expected.weight)
        end(whole)
        end(parts)
        assert torch.equal(parts.said.latest, whole.said.latest)
        assert torch.equal(parts.said.counts, whole.said.counts)
    assert parts.said.counts[:-1].sum() > 10


def test_a_step_that_is_discarded_leaves_no_trace() -> None:
    policy, other = make(), make()
    for number in range(4):
        policy(draw(number + 100))
        finish(policy, is_applied=False)
        for each in (policy, other):
            each(draw(number))
            end(each)
    assert torch.equal(policy.said.latest, other.said.latest)
    assert torch.equal(policy.said.counts, other.said.counts)


def test_a_step_without_a_sure_prediction_changes_nothing() -> None:
    policy = make()
    found = policy(Predictions(torch.full((3, NUM_CLASSES), 0.2), torch.arange(3)))
    end(policy)
    assert policy.said.counts.tolist() == [0] * NUM_CLASSES + [POOL]
    assert found.weight.tolist() == [1, 1, 1]  # all thresholds are 0 at the start
    low = make(mapping="low_limit")
    assert low(Predictions(torch.full((3, NUM_CLASSES), 0.2), torch.arange(3))).weight.tolist() == [0, 0, 0]


def test_one_class_that_fills_the_pool_has_the_full_threshold() -> None:
    policy = make()
    sure = torch.tensor([[0.9, 0.1, 0.0, 0.0, 0.0]]).expand(POOL, -1)
    policy(Predictions(sure, torch.arange(POOL)))
    end(policy)
    assert policy.thresholds().tolist() == [0.6, 0, 0, 0, 0]


def test_a_confidence_at_the_threshold_counts() -> None:
    policy = make(threshold=0.95)
    edge = torch.tensor([[0.95, 0.05, 0.0, 0.0, 0.0]])
    policy(Predictions(edge, torch.tensor([0])))
    end(policy)
    assert policy.said.counts[0] == 1
    policy.said.counts.copy_(torch.tensor([POOL, 0, 0, 0, 0, 0]))
    assert policy(Predictions(edge, torch.tensor([0]))).weight.item() == 1


def test_it_goes_on_after_a_restart() -> None:
    policy, resumed = make(), make()
    policy(draw(0))
    end(policy)
    resumed.load_state_dict(policy.state_dict())
    assert torch.equal(policy(draw(1)).weight, resumed(draw(1)).weight)
    assert torch.equal(policy.thresholds(), resumed.thresholds())


@pytest.mark.parametrize("option", [{"threshold": 0}, {"mapping": "cubic"}, {"warmup": None}])
def test_values_that_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(option))}="):
        CurriculumThresholds(**option)  # type: ignore[arg-type]
