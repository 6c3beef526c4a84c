"""CR-Match's feature distance against loops in float64, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slopes

from layermatch.functional import feature_distance_loss

Floats = NDArray[np.float64]


def distance_by_loops(strong: Floats, weak: Floats, weight: Floats, *, clamped: bool) -> float:
    total = 0.0
    for first, second, counts in zip(strong, weak, weight, strict=True):
        cosine = first @ second / np.sqrt((first @ first) * (second @ second))
        total += counts * (max(cosine, 0.0) if clamped else cosine)
    return total / len(strong)


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize("mask", ["all", "some", "none"])
def test_values_and_gradients_are_those_of_loops(mask: str, clamped: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    strong, weak = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64).unbind()
    weight = {"all": torch.ones(9), "some": torch.rand(9, generator=generator).round(), "none": torch.zeros(9)}[mask]
    weight = weight.double()
    strong.requires_grad_()
    weak.requires_grad_()
    loss = feature_distance_loss(strong, weak, weight, clamped=clamped)
    arrays = strong.detach().numpy(), weak.detach().numpy(), weight.numpy()
    assert loss.item() == pytest.approx(distance_by_loops(*arrays, clamped=clamped), rel=1e-12, abs=1e-15)
    loss.backward()
    expected = slopes(lambda moved: distance_by_loops(moved, arrays[1], arrays[2], clamped=clamped), arrays[0])
    np.testing.assert_allclose(strong.grad.numpy(), expected, rtol=1e-6, atol=1e-9)
    expected = slopes(lambda moved: distance_by_loops(arrays[0], moved, arrays[2], clamped=clamped), arrays[1])
    np.testing.assert_allclose(weak.grad.numpy(), expected, rtol=1e-6, atol=1e-9)


def test_features_of_length_0_and_no_image_have_a_finite_gradient() -> None:
    strong = torch.zeros(2, 3, requires_grad=True)
    feature_distance_loss(strong, torch.ones(2, 3), torch.ones(2), clamped=False).backward()
    assert strong.grad.isfinite().all()
    nothing = torch.zeros(0, 3, requires_grad=True)
    loss = feature_distance_loss(nothing, nothing, torch.zeros(0))
    loss.backward()
    assert loss == 0


def test_bf16_features_are_computed_in_float32() -> None:
    strong, weak = torch.tensor([[1.0, 0.3]]).bfloat16(), torch.tensor([[0.9, 0.1]]).bfloat16()
    found = feature_distance_loss(strong, weak, torch.ones(1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), feature_distance_loss(strong.double(), weak.double(), torch.ones(1).double())
    )
