"""Class sums and the centroid loss against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layermatch.functional import centroid_loss, class_sums, gradient_gap

Floats = NDArray[np.float64]

#: N, D, K
SIZES = [(1, 2, 2), (9, 5, 3), (40, 16, 10), (30, 8, 100)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
VALUE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 2**-7}
TEMPERATURE = 0.2


def draw(num: int, dim: int, num_classes: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(num + 100 * dim)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weight_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        "features": normal(num, dim),
        "centroids": normal(num_classes, dim),
        "label": torch.randint(num_classes, (num,), generator=generator),
        "weight": torch.rand(num, generator=generator, dtype=torch.float64).to(weight_dtype),
    }


# ------------------------------------------------------------------------------------------------------- class_sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "dim", "num_classes"), [*SIZES, (0, 4, 3)])
def test_class_sums_add_up_each_class(num: int, dim: int, num_classes: int, dtype: torch.dtype) -> None:
    drawn = draw(num, dim, num_classes, dtype)
    expected_sums, expected_counts = np.zeros((num_classes, dim)), np.zeros(num_classes)
    for feature, k, m in zip(*(drawn[name].tolist() for name in ("features", "label", "weight")), strict=True):
        expected_counts[k] += m
        expected_sums[k] += m * np.array(feature)
    sums, counts = class_sums(drawn["features"], drawn["label"], drawn["weight"], num_classes=num_classes)
    expected_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert (sums.dtype, counts.dtype) == (expected_dtype, expected_dtype)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(sums.numpy(), expected_sums, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(counts.numpy(), expected_counts, rtol=tolerance)


def test_an_absent_class_and_masked_samples_add_nothing() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    sums, counts = class_sums(features, torch.tensor([0, 2, 2]), torch.tensor([1.0, 0.0, 0.5]), num_classes=4)
    assert sums.tolist() == [[1.0, 2.0], [0.0, 0.0], [2.5, 3.0], [0.0, 0.0]]
    assert counts.tolist() == [1.0, 0.0, 0.5, 0.0]


def test_class_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    drawn = draw(12, 4, 3, torch.float64)
    whole = class_sums(drawn["features"], drawn["label"], drawn["weight"], num_classes=3)
    parts = [
        class_sums(drawn["features"][part], drawn["label"][part], drawn["weight"][part], num_classes=3)
        for part in (slice(0, 5), slice(5, 12))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    torch.testing.assert_close(parts[0][1] + parts[1][1], whole[1])


def test_class_sums_have_a_gradient() -> None:
    drawn = draw(5, 3, 4, torch.float64)
    features, weight = drawn["features"].requires_grad_(), drawn["weight"].requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: class_sums(f, drawn["label"], w, num_classes=4), (features, weight))


# ---------------------------------------------------------------------------------------------------- centroid_loss


def test_the_gap_of_gradients_is_that_of_plain_autograd() -> None:
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    one, other = features.square().sum(), (features**3).mean()
    gap, length = gradient_gap(one, other, features)
    expected, expected_length = 0.0, 0.0
    for value in features.detach().flatten().tolist():
        expected += (2 * value - 3 * value**2 / 15) ** 2
        expected_length += (3 * value**2 / 15) ** 2
    torch.testing.assert_close(float(gap), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(float(length), expected_length, rtol=1e-5, atol=0)
    one.backward()  # the graph is kept
    assert float(sum(gradient_gap(other, other, features)[:1])) == 0


def unit(vector: Floats) -> Floats:
    return vector / math.sqrt(sum(value * value for value in vector))


def reference(
    features: Floats, centroids: Floats, label: NDArray[np.int64], weight: Floats, temperature: float
) -> tuple[float, Floats]:
    """Value and gradient by hand; classes without a centroid are left out before anything is computed."""
    known = [k for k, centroid in enumerate(centroids) if any(centroid != 0)]
    value, gradient = 0.0, np.zeros_like(features)
    for n, feature in enumerate(features):
        if label[n] not in known:
            continue
        direction = unit(feature)
        exps = {k: math.exp(direction @ unit(centroids[k]) / temperature) for k in known}
        total = sum(exps.values())
        value -= weight[n] * math.log(exps[int(label[n])] / total) / len(features)
        pull = np.zeros_like(feature)
        for k in known:
            pull += (exps[k] / total - (k == label[n])) * unit(centroids[k]) / temperature
        # The derivative of a direction: what lies along the feature itself cannot change it.
        across = (pull - (pull @ direction) * direction) / math.sqrt(feature @ feature)
        gradient[n] = weight[n] * across / len(features)
    return value, gradient


def check_centroid_loss(drawn: dict[str, torch.Tensor], *, temperature: float = TEMPERATURE) -> None:
    features = drawn["features"].clone().requires_grad_()
    dtype = features.dtype
    loss = centroid_loss(features, drawn["centroids"], drawn["label"], drawn["weight"], temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, features)
    value, expected = reference(
        drawn["features"].double().numpy(),
        drawn["centroids"].double().numpy(),
        drawn["label"].numpy(),
        drawn["weight"].double().numpy(),
        temperature,
    )
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(value, rel=VALUE_TOLERANCE[dtype], abs=VALUE_TOLERANCE[dtype])
    assert gradient.dtype == dtype
    tolerance = GRADIENT_TOLERANCE[dtype]
    np.testing.assert_allclose(
        gradient.double().numpy(), expected, rtol=tolerance, atol=tolerance * abs(expected).max()
    )


@pytest.mark.parametrize("weights", ["all masked", "none masked", "half masked", "between 0 and 1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "dim", "num_classes"), SIZES)
def test_centroid_loss(num: int, dim: int, num_classes: int, dtype: torch.dtype, weights: str) -> None:
    drawn = draw(num, dim, num_classes, dtype)
    choices = {
        "all masked": torch.zeros_like(drawn["weight"]),
        "none masked": torch.ones_like(drawn["weight"]),
        "half masked": (drawn["weight"] > 0.5).to(drawn["weight"].dtype),
        "between 0 and 1": drawn["weight"],
    }
    check_centroid_loss(drawn | {"weight": choices[weights]})


@pytest.mark.parametrize("temperature", [0.05, 1.0, 10.0])
def test_centroid_loss_at_other_temperatures(temperature: float) -> None:
    check_centroid_loss(draw(9, 5, 3, torch.float64), temperature=temperature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unknown", [[0], [9], [1, 4, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
def test_classes_without_a_centroid_are_left_out(unknown: list[int], dtype: torch.dtype) -> None:
    drawn = draw(40, 16, 10, dtype)
    drawn["centroids"][unknown] = 0
    assert torch.isin(drawn["label"], torch.tensor(unknown)).any()
    check_centroid_loss(drawn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_any_centroid_value_and_gradient_are_0(dtype: torch.dtype) -> None:
    drawn = draw(9, 5, 3, dtype)
    features = drawn["features"].requires_grad_()
    loss = centroid_loss(features, torch.zeros(3, 5), drawn["label"], drawn["weight"], temperature=0.01)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("known", [[], [1], [0, 1, 2]])
def test_masked_samples_and_unknown_classes_get_exact_zeros(known: list[int], dtype: torch.dtype) -> None:
    drawn = draw(9, 5, 3, dtype)
    label, weight = torch.arange(9) % 3, (torch.arange(9) >= 3).to(drawn["weight"].dtype)
    centroids = torch.zeros_like(drawn["centroids"])
    centroids[known] = drawn["centroids"][known]
    features = drawn["features"].requires_grad_()
    loss = centroid_loss(features, centroids, label, weight, temperature=0.01)
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    counted = torch.isin(label, torch.tensor(known)) & (weight > 0)
    assert (gradient[~counted] == 0).all()
    if len(known) > 1:
        assert (gradient[counted].abs().sum(dim=1) > 0).all()


def test_only_directions_count() -> None:
    drawn = draw(9, 5, 3, torch.float64)
    label, weight = drawn["label"], drawn["weight"]
    loss = centroid_loss(drawn["features"], drawn["centroids"], label, weight, temperature=0.5)
    scaled = centroid_loss(3 * drawn["features"], 0.01 * drawn["centroids"], label, weight, temperature=0.5)
    torch.testing.assert_close(scaled, loss)


def test_no_gradient_reaches_the_centroids() -> None:
    drawn = draw(9, 5, 3, torch.float32)
    features, centroids = drawn["features"].requires_grad_(), drawn["centroids"].requires_grad_()
    loss = centroid_loss(features, centroids, drawn["label"], drawn["weight"], temperature=0.5)
    to_features, to_centroids = torch.autograd.grad(loss, (features, centroids), allow_unused=True)
    assert to_features.abs().sum() > 0
    assert to_centroids is None


def test_centroids_may_be_of_another_dtype() -> None:
    drawn = draw(9, 5, 3, torch.bfloat16)
    in_bf16 = centroid_loss(*drawn.values(), temperature=0.5)
    drawn["centroids"] = drawn["centroids"].float()
    torch.testing.assert_close(centroid_loss(*drawn.values(), temperature=0.5), in_bf16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_samples_give_0(dtype: torch.dtype) -> None:
    drawn = draw(0, 5, 3, dtype)
    features = drawn["features"].requires_grad_()
    loss = centroid_loss(features, drawn["centroids"], drawn["label"], drawn["weight"], temperature=0.5)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert gradient.shape == (0, 5)


@pytest.mark.parametrize("unknown", [[], [1], [0, 1, 2, 3]])
def test_gradient_by_finite_differences(unknown: list[int]) -> None:
    drawn = draw(6, 3, 4, torch.float64)
    drawn["centroids"][unknown] = 0
    rest = drawn["centroids"], drawn["label"], drawn["weight"]
    features = drawn["features"].requires_grad_()
    assert torch.autograd.gradcheck(lambda f: centroid_loss(f, *rest, temperature=0.5), features)
