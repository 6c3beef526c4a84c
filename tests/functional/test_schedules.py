from __future__ import annotations

import math

import numpy as np
import pytest

from layermatch import UserError
from layermatch.functional import constant, cosine, warmup_cosine


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


@pytest.mark.parametrize("max_steps", [1, 7, 1000])
@pytest.mark.parametrize("warmup", [0, 0.05, 0.5, 0.999])
def test_warmup_cosine_is_its_equation(max_steps: int, warmup: float) -> None:
    for step in range(max_steps + 1):
        rise = warmup * max_steps
        expected = (
            min(1, (step + 1) / rise)
            if step < rise
            else (1 + math.cos(math.pi * (step - rise) / (max_steps - rise))) / 2
        )
        factor = warmup_cosine(step, max_steps, warmup=warmup)
        assert factor == pytest.approx(expected, abs=1e-12)
        assert 0 <= factor <= 1
        assert factor > 0 or step == max_steps


def test_warmup_cosine_rises_falls_and_ends_at_0() -> None:
    factors = [warmup_cosine(step, 200, warmup=0.1) for step in range(201)]
    top = factors.index(1.0)
    assert 18 <= top <= 20
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] == 0


@pytest.mark.parametrize("warmup", [-0.01, 1, float("nan"), True, "0.1", None])
def test_a_warmup_out_of_range_is_refused(warmup: float) -> None:
    with pytest.raises(UserError, match=r"^warmup=.* is not legal: .* at least 0 and below 1"):
        warmup_cosine(0, 10, warmup=warmup)
