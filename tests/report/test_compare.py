"""Figures over seeds against scipy and numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from layermatch.report.compare import compare, summarise


@pytest.mark.parametrize("n", [2, 3, 10])
def test_mean_and_deviation_are_numpys(n: int) -> None:
    values = np.random.default_rng(n).random(n)
    summary = summarise(values)
    assert summary is not None
    assert (summary.mean, summary.std) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert summary.n == n


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_interval_is_that_of_a_paired_t_test(n: int, level: float) -> None:
    ours, theirs = np.random.default_rng(n).random((2, n))
    result = compare(dict(enumerate(ours)), dict(enumerate(theirs)), level=level)
    assert result is not None
    assert result.interval is not None
    expected = stats.ttest_rel(ours, theirs).confidence_interval(level)
    assert result.interval == pytest.approx((expected.low, expected.high), abs=1e-6)
    gaps = (ours - theirs).round(7)
    reach = stats.t.ppf((1 + level) / 2, n - 1) * gaps.std(ddof=1) / math.sqrt(n)
    assert result.interval == pytest.approx((gaps.mean() - reach, gaps.mean() + reach), rel=1e-12)
    assert result.difference == pytest.approx((ours - theirs).mean(), abs=1e-6)
    assert (result.wins, result.ties, result.n) == ((ours > theirs).sum(), 0, n)


def test_only_common_seeds_are_paired() -> None:
    result = compare({0: 0.5, 1: 0.9, 5: 0.1}, {1: 0.8, 0: 0.6, 7: 1.0})
    assert result is not None
    assert (result.n, result.wins, result.ties) == (2, 1, 0)
    assert result.difference == pytest.approx(0.0)
    assert compare({0: 0.5}, {1: 0.5}) is None


def test_one_pair_has_a_difference_and_no_interval() -> None:
    result = compare({3: 0.5}, {3: 0.25})
    assert result is not None
    assert (result.difference, result.interval, result.wins, result.n) == (0.25, None, 1, 1)


def test_the_last_bit_of_a_float_is_no_difference() -> None:
    result = compare({0: 0.1 + 0.2, 1: float(np.float32(0.3))}, {0: 0.3, 1: 0.3})
    assert result is not None
    assert (result.wins, result.ties, result.interval) == (0, 2, (0.0, 0.0))


def test_the_same_difference_each_time_is_its_own_interval() -> None:
    result = compare({0: 0.5, 1: 0.75, 2: 0.3}, {0: 0.4, 1: 0.65, 2: 0.2})
    assert result is not None
    assert result.interval == pytest.approx((0.1, 0.1), abs=1e-12)


def test_the_same_figure_each_time_has_no_deviation() -> None:
    summary = summarise([0.95] * 3)
    assert summary is not None
    assert summary.std == 0.0


def test_nothing_has_no_mean() -> None:
    assert summarise([]) is None
