"""Dash against numbers of the peers' code, and its warm-up against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from tests import oracle
from tests.given import batch_of_logits, network_of, problem_of, step_of
from tests.oracle import Worst

from layermatch.errors import UserError
from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.networks import wrn_small
from layermatch.parts import Problem, Step
from layermatch.policies import LossThreshold, Predictions

ORACLE = oracle.read("dash")
NUM_CLASSES = 4


@pytest.mark.oracle
@pytest.mark.parametrize("variant", ORACLE["config"])
def test_every_step_is_that_of_the_peers_code(variant: str) -> None:
    config, worst = ORACLE["config"][variant], Worst()
    network = network_of(ORACLE["inputs"]["K"])
    policy = LossThreshold(
        gamma=config["gamma"], scale=config["C"], lowest=config["rho_min"], temperature=config["T"],
        first=ORACLE["inputs"]["rho_init"], warmup=0.0, drop_every=0.1, selection="soft",
    )  # fmt: skip
    method = PseudoLabelling(policy=policy, rule=Uniform())
    method.prepare(network, problem_of(6))
    for number, recorded in enumerate(ORACLE["steps"]):
        want, batch = oracle.expected(ORACLE, recorded, variant), batch_of_logits(recorded["inputs"])
        while policy.warm_up.num_steps < recorded["inputs"]["it"]:  # the oracle leaves steps out
            policy.warm_up.num_steps += 1
        probs, labelled = batch.unlabelled.views["weak"].softmax(dim=1), batch.labelled
        found = policy(
            Predictions(
                probs.detach(), batch.unlabelled.indices, labelled.views["weak"].detach().softmax(dim=1), labelled.label
            )
        )
        policy.warm_up.discard_step()
        losses = method.losses(batch, step_of(network, number))
        losses.total.backward()
        worst.see(policy.threshold, want["state_rho"], "threshold")
        assert found.weight.tolist() == want["mask"]
        target = torch.tensor(want["pseudo_label"], dtype=torch.float64)
        if want["use_hard_label"]:
            target = torch.nn.functional.one_hot(target.long(), probs.shape[1])
        worst.see(found.target, target.tolist(), "target")
        worst.see(losses["supervised"].value, want["sup_loss"], "supervised")
        worst.see(losses["pseudo"].value, want["unsup_loss"], "pseudo")
        worst.see(losses.total, want["total_loss"], "total")
        worst.see(batch.unlabelled.views["strong"].grad, want["grad_logits_s"], "gradient")
        policy.warm_up.after_step(step_of(network, number))
    worst.say(f"dash {variant}")


def make(*, num_labelled: int = 8, max_steps: int = 100, **options: object) -> LossThreshold:
    policy = LossThreshold(**options)  # type: ignore[arg-type]
    policy.prepare(Problem(NUM_CLASSES, 8, num_labelled, 60, (3, 8, 8), max_steps))
    return policy


def draw(number: int, *, size: int = 6, num_labelled: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(number)
    probs, labelled = (
        (2 * torch.randn(n, NUM_CLASSES, generator=generator)).softmax(dim=1) for n in (size, num_labelled)
    )
    return Predictions(
        probs, torch.arange(size), labelled, torch.randint(NUM_CLASSES, (num_labelled,), generator=generator)
    )


def end(policy: LossThreshold) -> None:
    network = wrn_small(num_classes=2)
    policy.warm_up.after_step(Step(network, network, 0, 100, lambda *_: None, lambda *_: None))


def labelled_losses(*drawn: Predictions) -> list[float]:
    return [
        -math.log(row[y])
        for one in drawn
        for row, y in zip(one.probs_labelled.tolist(), one.label.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("num_labelled", "steps_of_pass"), [(4, 1), (8, 2), (10, 3), (2, 1), (1000, 5)])
def test_the_threshold_starts_at_the_labelled_loss_of_the_last_pass(num_labelled: int, steps_of_pass: int) -> None:
    policy = make(num_labelled=num_labelled, warmup=0.05, drop_every=0.03, lowest=0.3)
    for number in range(5):
        assert policy(draw(number)).weight.sum() == 0
        assert policy.thresholds().tolist() == [1] * NUM_CLASSES
        end(policy)
    losses = labelled_losses(*(draw(number) for number in range(5 - steps_of_pass, 5)))
    first = math.fsum(losses) / len(losses)
    for number in range(5, 40):
        rho = max(1.0001 * first / 1.27 ** ((number - 5) // 3), 0.3)
        predictions = draw(number)
        found = policy(predictions)
        assert policy.threshold.item() == pytest.approx(rho, rel=1e-6)
        assert policy.thresholds().tolist() == pytest.approx([math.exp(-rho)] * NUM_CLASSES, rel=1e-6)
        for row, weight, target in zip(
            predictions.probs_weak.tolist(), found.weight.tolist(), found.target.tolist(), strict=True
        ):
            assert weight == float(-math.log(max(row)) <= rho)
            powers = [p**2 for p in row]
            soft = [power / sum(powers) for power in powers]
            hard = [float(p == max(row)) for p in row]
            assert target == pytest.approx(soft if rho > 0.3 else hard, abs=1e-6)
        end(policy)
    assert rho == 0.3 < first  # both kinds of targets were there


def test_a_warm_up_takes_one_step_at_least_where_the_first_threshold_is_measured() -> None:
    policy = make(warmup=0.0)
    assert policy.warm_up.steps == 1
    assert policy(draw(0)).weight.sum() == 0
    end(policy)
    losses = labelled_losses(draw(0))
    assert policy.threshold.item() == pytest.approx(1.0001 * math.fsum(losses) / 4, rel=1e-6)
    assert make(warmup=0.0, first=0.5).warm_up.steps == 0
    assert make(warmup=0.5, first=0.5).warm_up.steps == 50


def test_accumulated_batches_are_one_step() -> None:
    whole, parts = make(warmup=0.02), make(warmup=0.02)
    for number in range(4):
        predictions = draw(number)
        found = [
            parts(
                predictions._replace(
                    probs_labelled=predictions.probs_labelled[part], label=predictions.label[part],
                    probs_weak=predictions.probs_weak[part], indices=predictions.indices[part],
                )
            )
            for part in (slice(0, 3), slice(3, None))
        ]  # fmt: skip
        expected = whole(predictions)
        assert torch.equal(torch.cat([part.weight for part in found]), expected.weight)
        end(whole)
        end(parts)
    torch.testing.assert_close(parts.warm_up.of_last_pass, whole.warm_up.of_last_pass)
    assert int(parts.warm_up.num_steps) == int(whole.warm_up.num_steps) == 4
    assert whole.warm_up.of_last_pass[1] == 8


def test_a_step_that_is_discarded_leaves_no_trace() -> None:
    policy, other = make(warmup=0.02), make(warmup=0.02)
    for number in range(4):
        policy(draw(number + 100))
        policy.warm_up.discard_step()
        for each in (policy, other):
            each(draw(number))
            end(each)
    assert torch.equal(policy.warm_up.of_last_pass, other.warm_up.of_last_pass)
    assert torch.equal(policy.warm_up.num_steps, other.warm_up.num_steps)


def test_it_goes_on_after_a_restart() -> None:
    policy, resumed = make(warmup=0.02), make(warmup=0.02)
    for number in range(3):
        policy(draw(number))
        end(policy)
    resumed.load_state_dict(policy.state_dict())
    assert torch.equal(policy(draw(3)).weight, resumed(draw(3)).weight)
    assert torch.equal(policy.threshold, resumed.threshold)


def test_a_label_of_probability_zero_has_a_finite_loss() -> None:
    policy = make()
    policy(draw(0)._replace(probs_labelled=torch.eye(4), label=torch.tensor([1, 1, 2, 3])))
    end(policy)
    assert policy.threshold.isfinite()
    assert policy.threshold > 20


def test_all_and_none() -> None:
    sure, undecided = torch.eye(NUM_CLASSES), torch.full((4, NUM_CLASSES), 0.25)
    for first, expected in ((100.0, [1.0] * 4), (0.0, [0.0] * 4)):
        policy = make(first=first, warmup=0.0)
        assert policy(draw(0)._replace(probs_weak=undecided, indices=torch.arange(4))).weight.tolist() == expected
        assert policy(draw(0)._replace(probs_weak=sure, indices=torch.arange(4))).weight.tolist() == [1.0] * 4


def test_it_needs_labelled_images() -> None:
    assert LossThreshold.needs_labelled
    with pytest.raises(UserError, match="labelled images"):
        make()(Predictions(torch.eye(NUM_CLASSES), torch.arange(NUM_CLASSES)))


@pytest.mark.parametrize(
    "option",
    [
        {"gamma": 0.9}, {"scale": 0}, {"lowest": -1}, {"temperature": 0}, {"warmup": 2}, {"drop_every": 0},
        {"first": -1}, {"selection": "both"},
    ],
)  # fmt: skip
def test_values_that_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(option))}="):
        LossThreshold(**option)  # type: ignore[arg-type]
