"""Any policy behind an alignment: it sees the aligned probabilities, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from layermatch.build import build_method
from layermatch.cli import config_dir, plain
from layermatch.errors import UserError
from layermatch.functional import align_distribution
from layermatch.networks import Output
from layermatch.parts import Losses, Problem, Term
from layermatch.policies import Aligned, AveragedNetwork, FixedThreshold, Policy, Predictions, PseudoLabels, aligned
from layermatch.settings import Settings

PROBLEM = Problem(3, 8, 8, 24, (1, 8, 8), 100, (1, 3, 4))


def predictions(seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    weak, labelled = (torch.randn(n, 3, generator=generator).softmax(dim=1) for n in (12, 8))
    return Predictions(weak, torch.arange(12), labelled, torch.arange(8) % 3)


class Watched(FixedThreshold):
    """Notes what it is shown, and has a loss of its own."""

    def forward(self, predictions: Predictions) -> PseudoLabels:
        self.seen = predictions
        return super().forward(predictions)

    def losses(self, strong: Output, pseudo_labels: PseudoLabels, predictions: Predictions) -> Losses:
        return Losses(own=Term(predictions.probs_weak.square().sum(), "pseudo_labels"))


def made(policy: Policy, **options: Any) -> Policy:
    policy = aligned(policy, **options)
    policy.prepare(PROBLEM)
    return policy


def test_the_policy_sees_aligned_probabilities_in_its_losses_too() -> None:
    inner = Watched(threshold=0.6)
    policy, given = made(inner, alignment="labelled"), predictions()
    found = policy(given)
    expected = align_distribution(given.probs_weak, torch.tensor([1, 3, 4]) / 8, given.probs_weak.mean(dim=0))
    torch.testing.assert_close(inner.seen.probs_weak, expected)
    assert inner.seen.label is given.label
    assert inner.seen.probs_labelled is given.probs_labelled
    assert found.label.tolist() == expected.argmax(dim=1).tolist() != given.probs_weak.argmax(dim=1).tolist()
    torch.testing.assert_close(found.confidence, expected.max(dim=1).values)
    loss = policy.losses(Output(torch.zeros(12, 8), {}), found, given)["own"].value
    torch.testing.assert_close(loss, expected.square().sum())
    assert policy.thresholds().tolist() == [0.6] * 3


def test_it_asks_for_the_averaged_network_where_the_policy_does() -> None:
    found = [made(each, alignment="uniform").needs_teacher for each in (FixedThreshold(), AveragedNetwork())]
    assert found == [False, True]


def test_without_an_alignment_there_is_none() -> None:
    policy = FixedThreshold()
    assert aligned(policy) is policy


@pytest.mark.parametrize(("target", "needs"), [("uniform", False), ("labelled", False), ("predictions", True)])
def test_it_asks_for_labelled_predictions_where_the_target_is_made_of_them(target: str, needs: bool) -> None:
    policy = made(FixedThreshold(), alignment=target)
    assert policy.needs_labelled == needs
    policy(predictions())
    if needs:
        shown = predictions().probs_labelled.mean(dim=0)
        torch.testing.assert_close(policy.alignment.wanted, 0.999 / 3 + 0.001 * shown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"alignment": "classes"},
            "alignment='classes' is not legal: choose one of none, uniform, labelled, predictions",
        ),
        ({"alignment_queue": 4}, "alignment_queue=4 has no effect with alignment=none"),
        ({"alignment_decay": 0.9}, "alignment_decay=0.9 has no effect with alignment=none"),
        ({"alignment_decay": 1}, "alignment_decay=1 is not legal"),
        ({"alignment_queue": 0, "alignment": "uniform"}, "alignment_queue=0 is not legal"),
        (
            {"alignment_queue": 4, "alignment_decay": 0.9, "alignment": "uniform"},
            "alignment_decay=0.9 has no effect with alignment_queue=4",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        aligned(FixedThreshold(), **options)
    assert str(caught.value).startswith(message)


def method_of(*words: str) -> Any:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return build_method(Settings.parse(plain(compose("run", overrides=["run_dir=unused", *words]))))


@pytest.mark.parametrize("policy", ["fixed", "noisy"])
def test_every_policy_can_be_aligned_on_the_command_line(policy: str) -> None:
    words = [f"pseudo_labels={policy}", "pseudo_labels.alignment=uniform", "pseudo_labels.alignment_queue=32"]
    found = method_of("algorithm=fixmatch", *words).policy
    assert isinstance(found, Aligned)
    assert (found.alignment.target, found.alignment.queue) == ("uniform", 32)
    assert not isinstance(method_of("algorithm=fixmatch", f"pseudo_labels={policy}").policy, Aligned)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pseudo_labels.alignment=all"], "pseudo_labels.alignment='all' is not legal"),
        (
            ["pseudo_labels.alignment_queue=2"],
            "pseudo_labels.alignment_queue=2 has no effect with pseudo_labels.alignment",
        ),
        (["+pseudo_labels.bogus=2"], "unknown setting pseudo_labels.bogus: choose one of alignment, alignment_decay"),
    ],
)
def test_an_error_names_the_setting_as_the_command_line_does(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        method_of("algorithm=fixmatch", *words)
    assert str(caught.value).startswith(message)
