"""Pseudo-labels by prototypes, their weights and their blend, against numpy: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.slopes import slope

from layermatch.functional import blend, blending_weights, prototype_logits, pseudo_label_loss

Floats = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosines(features: Floats, prototypes: Floats) -> Floats:
    found = np.zeros((len(features), len(prototypes)))
    for i, z in enumerate(features):
        for k, c in enumerate(prototypes):
            lengths = np.sqrt((z * z).sum()) * np.sqrt((c * c).sum())
            found[i, k] = (z * c).sum() / lengths if lengths else 0.0
    return found


def softmax(row: Floats) -> Floats:
    return np.exp(row - row.max()) / np.exp(row - row.max()).sum()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_logits_and_the_gradient_of_their_loss(num_classes: int, temperature: float) -> None:
    features, prototypes = draw(6, 3).requires_grad_(), draw(num_classes, 3, seed=1)
    prototypes[-1] = 0  # a class that was not seen yet
    logits = prototype_logits(features, prototypes, temperature=temperature)
    expected = cosines(features.detach().numpy(), prototypes.numpy()) / temperature
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    target = draw(6, num_classes, seed=2).softmax(dim=1)
    pseudo_label_loss(logits, target, torch.ones(6)).backward()

    def loss(z: Floats) -> float:
        rows = cosines(z, prototypes.numpy()) / temperature
        return float(np.mean([-(q * np.log(softmax(row))).sum() for row, q in zip(rows, target.numpy(), strict=True)]))

    assert features.grad is not None
    for place in [(0, 0), (3, 2), (5, 1)]:
        wanted = slope(loss, features.detach().numpy(), place)
        assert features.grad[place].item() == pytest.approx(wanted, rel=1e-5, abs=1e-8)


def test_no_gradient_goes_to_prototypes_and_half_precision_is_not_kept() -> None:
    prototypes = draw(2, 3).requires_grad_()
    logits = prototype_logits(draw(4, 3).bfloat16().requires_grad_(), prototypes, temperature=0.1)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert prototypes.grad is None


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("shares", [[0.8, 0.15, 0.05], [0.5, 0.5], [1.0, 0.0], [0.25] * 4])
def test_weights(shares: list[float], temperature: float) -> None:
    powers = [share ** (1 / temperature) for share in shares]
    normalised = [power / sum(powers) for power in powers]
    expected = [share / max(normalised) for share in normalised]
    found = blending_weights(torch.tensor(shares, dtype=torch.float64), temperature=temperature)
    assert found.tolist() == pytest.approx(expected)


def test_weights_are_zero_until_the_shares_are_known() -> None:
    assert blending_weights(torch.zeros(3), temperature=1.5).tolist() == [0, 0, 0]


@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.3, 0.05]])
def test_the_blend_is_by_the_class_of_the_linear_label(weights: list[float]) -> None:
    probs, semantic = draw(20, 3).softmax(dim=1), draw(20, 3, seed=1).softmax(dim=1)
    probs[0] = 1 / 3  # a tie is the first class's
    found = blend(probs, semantic, torch.tensor(weights, dtype=torch.float64))
    for i in range(20):
        share = weights[int(np.argmax(probs[i].numpy()))]
        expected = (1 - share) * probs[i].numpy() + share * semantic[i].numpy()
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-12)
    assert found.sum(dim=1).tolist() == pytest.approx([1.0] * 20)
