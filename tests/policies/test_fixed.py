"""FixMatch's fixed threshold, against a loop in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.errors import UserError
from layermatch.parts import Problem
from layermatch.policies import FixedThreshold, Predictions


def problem(*, num_classes: int, num_unlabelled: int) -> Problem:
    return Problem(
        num_classes=num_classes,
        num_features=8,
        num_labelled=4,
        num_unlabelled=num_unlabelled,
        image_shape=(3, 32, 32),
        max_steps=100,
    )


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("num_classes", [2, 10])
def test_hard_labels_where_the_confidence_reaches_the_threshold(threshold: float, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(num_classes)
    probs = (5 * torch.randn(200, num_classes, generator=generator)).softmax(dim=1)
    probs[0] = torch.nn.functional.one_hot(torch.tensor(1), num_classes)  # reaches even 1
    found = FixedThreshold(threshold=threshold)(Predictions(probs, torch.arange(200)))
    for i, row in enumerate(probs.numpy()):
        label = int(np.argmax(row))
        assert found.label[i] == found.target[i] == label
        assert found.confidence[i] == row[label]
        assert found.weight[i] == float(row[label] >= np.float32(threshold))
    assert found.weight.dtype == torch.float32
    assert 0 < found.weight.sum() <= 200
    assert not any(tensor.requires_grad for tensor in found if tensor is not None)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.0001, "0.9", None, float("nan"), True])
def test_thresholds_that_are_refused(threshold: object) -> None:
    with pytest.raises(UserError, match=r"^threshold="):
        FixedThreshold(threshold=threshold)  # type: ignore[arg-type]


def test_it_has_no_state() -> None:
    policy = FixedThreshold()
    policy.prepare(problem(num_classes=10, num_unlabelled=100))
    assert policy.state_dict() == {}


def test_thresholds_of_every_class() -> None:
    policy = FixedThreshold(threshold=0.95)
    policy.prepare(problem(num_classes=4, num_unlabelled=10))
    assert policy.thresholds().tolist() == [0.95] * 4
