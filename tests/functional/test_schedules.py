from __future__ import annotations

import math

import numpy as np
import pytest

from layermatch import UserError
from layermatch.functional import constant, cosine


@pytest.mark.parametrize("max_steps", [1, 100, 2**20])
@pytest.mark.parametrize("cycles", [0, 0.1, 7 / 16, 0.5])
def test_cosine_is_its_equation(max_steps: int, cycles: float) -> None:
    steps = np.unique(np.linspace(0, max_steps, 50).astype(int))
    factors = [cosine(int(step), max_steps, cycles=cycles) for step in steps]
    np.testing.assert_allclose(factors, np.cos(np.pi * cycles * steps / max_steps), rtol=1e-12, atol=1e-15)
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert min(factors) >= 0


def test_the_default_is_fixmatchs() -> None:
    for step in (0, 1, 500, 1000):
        assert cosine(step, 1000) == pytest.approx(math.cos(7 * math.pi * step / (16 * 1000)))
    assert cosine(1000, 1000) == pytest.approx(0.19509032)


def test_no_part_of_a_cosine_is_constant() -> None:
    assert {cosine(step, 10, cycles=0) for step in range(11)} == {1.0}


@pytest.mark.parametrize("cycles", [-0.01, 0.51, 7, float("nan"), float("inf"), True, "7/16", None])
def test_cycles_out_of_range_are_refused(cycles: float) -> None:
    with pytest.raises(UserError, match=r"^cycles=.* is not legal: .* at least 0 and at most 0\.5"):
        cosine(0, 10, cycles=cycles)


def test_constant_is_1() -> None:
    assert {constant(step, 10) for step in range(11)} == {1.0}
