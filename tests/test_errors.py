from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from layermatch import UserError
from layermatch.errors import check_bool, check_choice, check_number

INF = float("inf")


def message(check: Callable[..., None], *args: Any, **options: Any) -> str | None:
    """What the check says, None where it is content."""
    try:
        check(*args, **options)
    except UserError as error:
        return str(error)
    return None


def test_a_user_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^a wrong value$"):
        raise UserError("a wrong value")


@pytest.mark.parametrize("value", ["split", "joint"])
def test_a_legal_choice(value: str) -> None:
    assert message(check_choice, "forward", value, ("split", "joint")) is None


@pytest.mark.parametrize("value", ["Split", "", "spli", None, 1, True, ["split"]])
def test_an_illegal_choice(value: object) -> None:
    expected = f"forward={value!r} is not legal: choose one of split, joint"
    assert message(check_choice, "forward", value, ("split", "joint")) == expected


def test_part_of_a_legal_choice_is_none() -> None:
    assert message(check_choice, "forward", "joint", {"joint": 1}) is None
    assert message(check_choice, "forward", "oin", {"joint": 1}) == "forward='oin' is not legal: choose one of joint"


@pytest.mark.parametrize("value", [True, False])
def test_a_bool(value: bool) -> None:
    assert message(check_bool, "data.verify", value) is None


@pytest.mark.parametrize("value", [0, 1, "true", None, 1.0, np.True_])
def test_no_bool(value: object) -> None:
    assert message(check_bool, "data.verify", value) == f"data.verify={value!r} is not legal: choose true or false"


NUMBERS: list[tuple[Any, dict[str, Any], str | None]] = [
    (3, {}, None),
    (-2.5, {}, None),
    (np.float32(0.5), {}, None),
    (Fraction(1, 3), {}, None),
    (10**400, {}, None),
    (10**400, {"high": 1}, "give a number, at most 1"),
    (-(10**400), {"low": 0, "integer": True}, "give a whole number, at least 0"),
    (INF, {}, "give a number"),
    (-INF, {}, "give a number"),
    (float("nan"), {}, "give a number"),
    (float("nan"), {"low": 0, "high": 1}, "give a number, at least 0 and at most 1"),
    (True, {}, "give a number"),
    (False, {"integer": True}, "give a whole number"),
    ("3", {}, "give a number"),
    (None, {}, "give a number"),
    ([3], {"integer": True}, "give a whole number"),
    (1 + 2j, {}, "give a number"),
    (3, {"integer": True}, None),
    (3.0, {"integer": True}, "give a whole number"),
    (0, {"low": 0}, None),
    (-1e-9, {"low": 0}, "give a number, at least 0"),
    (0, {"low": 0, "low_open": True}, "give a number, above 0"),
    (1e-9, {"low": 0, "low_open": True}, None),
    (1, {"high": 1}, None),
    (1.001, {"high": 1}, "give a number, at most 1"),
    (1, {"high": 1, "high_open": True}, "give a number, below 1"),
    (0.999, {"high": 1, "high_open": True}, None),
    (0, {"low": 1, "integer": True}, "give a whole number, at least 1"),
    (2, {"low": 0, "high": 1, "low_open": True, "high_open": True}, "give a number, above 0 and below 1"),
    (0.95, {"low": 0, "high": 1, "low_open": True}, None),
]


@pytest.mark.parametrize(("value", "bounds", "legal"), NUMBERS)
def test_numbers(value: object, bounds: dict[str, Any], legal: str | None) -> None:
    expected = None if legal is None else f"some.key={value!r} is not legal: {legal}"
    assert message(check_number, "some.key", value, **bounds) == expected
