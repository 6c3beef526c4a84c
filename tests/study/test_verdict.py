"""The rule of a study with folds, on outcomes that are made for it, and the interval that it stands on."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from layermatch.report.compare import compare
from layermatch.study.rows import Row
from layermatch.study.verdict import FEWEST, Outcome, better_of, verdict_on

#: The quantile of Student's t distribution for 95 %, by degrees of freedom, from a printed table.
T = {4: 2.77645, 9: 2.26216}

#: Accuracies of labels alone in five folds of two seeds.
BEFORE = {
    (seed, fold): share
    for seed, shares in enumerate([[0.60, 0.70, 0.65, 0.55, 0.62], [0.64, 0.58, 0.71, 0.66, 0.60]])
    for fold, share in enumerate(shares, start=1)
}


def outcome(gains: list[float], *, folds: int = 5) -> Outcome:
    draws = list(BEFORE)[: len(gains)]
    after = {draw: BEFORE[draw] + gain for draw, gain in zip(draws, gains, strict=True)}
    found = compare(after, BEFORE, overlap=1 / (folds - 1))
    assert found is not None
    return verdict_on(found).outcome


def test_the_interval_is_that_of_repeated_folds() -> None:
    gains = [0.04, 0.02, 0.06, 0.01, 0.03, 0.05, 0.02, 0.04, 0.00, 0.03]
    after = {draw: BEFORE[draw] + gain for draw, gain in zip(BEFORE, gains, strict=True)}
    found = compare(after, BEFORE, overlap=1 / 4)
    half = T[9] * stdev(gains) * math.sqrt(1 / 10 + 1 / 4)
    assert found.difference == pytest.approx(mean(gains))
    assert found.interval == pytest.approx((mean(gains) - half, mean(gains) + half), rel=1e-4)
    assert found.interval[0] < compare(after, BEFORE).interval[0]  # wider than that of independent pairs


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.04, 0.05, 0.06, 0.05, 0.04, 0.05, 0.06, 0.04, 0.05, 0.05], Outcome.HELPS),
        ([-0.04, -0.05, -0.06, -0.05, -0.04, -0.05, -0.06, -0.04, -0.05, -0.05], Outcome.HURTS),
        ([0.04, -0.05, 0.06, -0.02, 0.04, -0.05, 0.01, -0.04, 0.05, 0.00], Outcome.CANNOT_TELL),
        # Mostly better, and by much; but an interval of 0.058 to each side has 0 in it.
        ([0.10, 0.08, -0.02, 0.09, 0.01, 0.07, 0.12, -0.01, 0.00, 0.05], Outcome.CANNOT_TELL),
        ([0.0] * 10, Outcome.CANNOT_TELL),
        ([0.05, 0.05, 0.05, 0.05], Outcome.CANNOT_TELL),  # too few, whatever they say
        ([0.05, 0.05, 0.05, 0.05, 0.05], Outcome.HELPS),
        ([0.05], Outcome.CANNOT_TELL),
    ],
)
def test_made_outcomes_have_the_verdict_of_the_rule(gains: list[float], expected: Outcome) -> None:
    assert outcome(gains) is expected


def test_a_pool_that_does_nothing_is_seldom_said_to_do_something() -> None:
    """Differences of folds that have most of their labels in common: 5 % of the verdicts may be wrong, not more."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        # What the runs of a seed have in common, and what each has of its own.
        common = generator.normal(0, 0.02, (2, 1))
        gains = (common + generator.normal(0, 0.04, (2, 5))).ravel()
        wrong += outcome([round(float(gain), 6) for gain in gains]) is not Outcome.CANNOT_TELL
    assert wrong <= 0.05 * 400


def test_the_sentence_says_what_and_by_how_much() -> None:
    after = {draw: share + 0.05 for draw, share in BEFORE.items()}
    found = compare(after | {(0, 1): BEFORE[0, 1] + 0.03}, BEFORE, overlap=1 / 4)
    sentence = verdict_on(found).sentence("layermatch", "supervised", where=" with 40 labels")
    assert sentence.startswith(
        "layermatch against supervised with 40 labels: helps. +4.8 points, 95 % interval +4.0 to"
    )
    few = compare({(0, 1): 0.9}, BEFORE)
    assert f"Fewer than {FEWEST} pairs say nothing" in verdict_on(few).sentence("a", "b")


def row_of(name: str, figures: dict[int, float]) -> Row:
    return Row(name, 40, figures, {}, None, None, "", None)


def test_the_baseline_is_the_better_one_in_the_runs_that_all_have() -> None:
    probe = row_of("linear_probe", {0: 0.50, 1: 0.52, 2: 0.54, 3: 0.10})
    trained = row_of("supervised", {0: 0.48, 1: 0.53, 2: 0.52})  # higher in all its runs, not in the common ones
    method = row_of("fixmatch", {1: 0.55, 2: 0.55, 0: 0.55, 3: 0.90, 4: 0.90})
    name, found = better_of(method, [trained, probe])
    assert name == "linear_probe"
    assert found == compare({0: 0.55, 1: 0.55, 2: 0.55}, probe.by_draw)
    assert (found.n, found.wins) == (3, 3)
    # On the last two of these runs the other is the better one.
    assert better_of(row_of("fixmatch", {1: 0.55}), [trained, probe])[0] == "supervised"
    assert better_of(row_of("fixmatch", {4: 0.55}), [trained, probe]) is None
    # Folds share what they learn from: the interval is the wider one.
    wide = better_of(method, [trained, probe], overlap=1 / 4)[1]
    assert wide.interval[0] < found.interval[0]


def test_equal_baselines_are_the_first_one() -> None:
    same = {0: 0.5, 1: 0.6}
    assert better_of(row_of("a", same), [row_of("b", same), row_of("c", same)])[0] == "b"
