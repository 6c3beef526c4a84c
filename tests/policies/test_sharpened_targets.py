"""UDA's targets: sharpened, and masked by the confidence before that."""

from __future__ import annotations

import pytest
import torch

from layermatch.errors import UserError
from layermatch.parts import Problem
from layermatch.policies import FixedThreshold, Predictions, SharpenedTargets


def test_the_mask_is_that_of_the_probabilities_before_they_are_sharpened() -> None:
    probs = torch.tensor([[0.79, 0.21], [0.81, 0.19], [0.8, 0.2], [0.5, 0.5]])  # sharpened, 0.79 is 0.96
    predictions = Predictions(probs, torch.arange(4))
    found, fixed = SharpenedTargets()(predictions), FixedThreshold(threshold=0.8)(predictions)
    assert found.weight.tolist() == [0, 1, 1, 0]
    for name in ("weight", "label", "confidence"):
        assert torch.equal(getattr(found, name), getattr(fixed, name))
    powers = probs.double() ** 2.5
    torch.testing.assert_close(found.target.double(), powers / powers.sum(dim=1, keepdim=True), rtol=1e-6, atol=1e-6)
    assert found.target.dtype == torch.float32


def test_temperature_one_leaves_them_as_they_are() -> None:
    probs = torch.tensor([[0.25, 0.75]])
    torch.testing.assert_close(SharpenedTargets(temperature=1.0)(Predictions(probs, torch.arange(1))).target, probs)


def test_it_has_no_state() -> None:
    policy = SharpenedTargets()
    policy.prepare(Problem(4, 8, 4, 10, (3, 8, 8), 100))
    assert policy.state_dict() == {}
    assert policy.thresholds().tolist() == [0.8] * 4


@pytest.mark.parametrize("option", [{"threshold": 0}, {"temperature": 0}, {"temperature": -1}, {"temperature": "1"}])
def test_values_that_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(option))}="):
        SharpenedTargets(**option)  # type: ignore[arg-type]
