"""AdaMatch's equations against loops, and its ramp against the authors' schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests import oracle

from layermatch.functional import cosine_ramp, interpolate_logits, relative_threshold


@pytest.mark.oracle
def test_the_ramp_is_that_of_the_authors_code() -> None:
    schedule = oracle.read("adamatch")["outputs"]["schedules"]["progress_wu_lr"]
    assert len(schedule) == 10
    for progress, expected, _ in schedule:
        assert cosine_ramp(progress, length=0.5) == pytest.approx(expected, abs=1e-8)


def test_without_a_length_there_is_no_ramp() -> None:
    assert cosine_ramp(0.0, length=0.0) == cosine_ramp(1.0, length=1.0) == 1
    assert cosine_ramp(0.0, length=1.0) == 0


def test_each_logit_has_a_place_of_its_own() -> None:
    rng = np.random.default_rng(0)
    joint, alone, draws = (rng.random((4, 3)) for _ in range(3))
    given = [torch.tensor(each, requires_grad=True) for each in (joint, alone)]
    found = interpolate_logits(*given, torch.tensor(draws))
    for i in range(4):
        for k in range(3):
            between = (1 - draws[i, k]) * joint[i, k] + draws[i, k] * alone[i, k]
            assert found[i, k].item() == pytest.approx(between)
    found.sum().backward()
    np.testing.assert_allclose(given[0].grad, 1 - draws)
    np.testing.assert_allclose(given[1].grad, draws)


def test_the_threshold_is_a_share_of_the_mean_confidence() -> None:
    probs = np.random.default_rng(1).dirichlet(np.ones(5), size=7)
    expected = 0.9 * sum(max(row) for row in probs) / 7
    assert relative_threshold(torch.tensor(probs), 0.9).item() == pytest.approx(expected)
