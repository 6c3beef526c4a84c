"""Debiased probabilities against softmax of the logits that they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import debiased_probabilities


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("num_classes", [2, 6])
def test_it_is_a_margin_on_the_logits(num_classes: int, strength: float) -> None:
    rng = np.random.default_rng(num_classes)
    logits, average = rng.normal(size=(9, num_classes)) * 3, rng.dirichlet(np.ones(num_classes))
    moved = np.exp(logits - strength * np.log(average))
    found = debiased_probabilities(torch.tensor(logits).softmax(dim=1), torch.tensor(average), strength=strength)
    np.testing.assert_allclose(found, moved / moved.sum(axis=1, keepdims=True), rtol=1e-10)


def test_certain_rows_stay_certain() -> None:
    found = debiased_probabilities(torch.eye(3), torch.tensor([0.98, 0.01, 0.01]), strength=1.0)
    assert torch.equal(found, torch.eye(3))


def test_the_gradient_goes_through() -> None:
    probs = torch.tensor([[0.7, 0.3]], dtype=torch.float64, requires_grad=True)
    average = torch.tensor([0.6, 0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: debiased_probabilities(p, average, strength=0.5), probs)
