"""The losses against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from layermatch.functional import pseudo_label_loss, supervised_loss

Floats = NDArray[np.float64]

SIZES = [(1, 2), (7, 3), (64, 10), (33, 100)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
#: Relative error of the value, which is float32 at least; and of the gradient, which has the dtype of the logits.
VALUE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
GRADIENT_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}


def softmax(row: Floats) -> list[float]:
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


def cross_entropy(row: Floats, target: Floats) -> float:
    log_sum = max(row) + math.log(sum(math.exp(value - max(row)) for value in row))
    return math.fsum(t * (log_sum - value) for t, value in zip(target, row, strict=True))


def one_hot(label: NDArray[np.int64], num_classes: int) -> Floats:
    rows = np.zeros((len(label), num_classes))
    for n, k in enumerate(label):
        rows[n, k] = 1.0
    return rows


def reference(logits: Floats, target: Floats, weight: Floats) -> tuple[float, Floats]:
    """The mean of weighted cross-entropies over all rows, and its gradient by hand."""
    value, gradient = 0.0, np.zeros_like(logits)
    for n, row in enumerate(logits):
        value += weight[n] * cross_entropy(row, target[n]) / len(logits)
        for k, p in enumerate(softmax(row)):
            gradient[n, k] = weight[n] * (p * sum(target[n]) - target[n, k]) / len(logits)
    return value, gradient


def draw(num: int, num_classes: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num * 1000 + num_classes)
    logits = (3 * torch.randn(num, num_classes, generator=generator, dtype=torch.float64)).to(dtype)
    label = torch.randint(num_classes, (num,), generator=generator)
    weight = torch.rand(num, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), label, weight if dtype == torch.float64 else weight.float()


def check(loss: torch.Tensor, logits: torch.Tensor, value: float, gradient: Floats) -> None:
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(value, rel=VALUE_TOLERANCE[logits.dtype], abs=1e-7)
    (got,) = torch.autograd.grad(loss, logits)
    assert got.dtype == logits.dtype
    tolerance = GRADIENT_TOLERANCE[logits.dtype]
    np.testing.assert_allclose(got.double().numpy(), gradient, rtol=tolerance, atol=tolerance * abs(gradient).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "num_classes"), SIZES)
def test_supervised_loss_is_the_mean_cross_entropy(num: int, num_classes: int, dtype: torch.dtype) -> None:
    logits, label, _ = draw(num, num_classes, dtype)
    target = one_hot(label.numpy(), num_classes)
    check(supervised_loss(logits, label), logits, *reference(logits.detach().double().numpy(), target, np.ones(num)))


@pytest.mark.parametrize("weights", ["all masked", "none masked", "half masked", "between 0 and 1"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "num_classes"), SIZES)
def test_pseudo_label_loss_averages_over_all_samples(
    num: int, num_classes: int, dtype: torch.dtype, weights: str
) -> None:
    logits, label, weight = draw(num, num_classes, dtype)
    choices = {
        "all masked": torch.zeros_like(weight),
        "none masked": torch.ones_like(weight),
        "half masked": (weight > 0.5).to(weight.dtype),
        "between 0 and 1": weight,
    }
    weight = choices[weights]
    target = one_hot(label.numpy(), num_classes)
    expected = reference(logits.detach().double().numpy(), target, weight.double().numpy())
    check(pseudo_label_loss(logits, label, weight), logits, *expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num", "num_classes"), SIZES)
def test_pseudo_label_loss_takes_soft_targets(num: int, num_classes: int, dtype: torch.dtype) -> None:
    logits, _, weight = draw(num, num_classes, dtype)
    generator = torch.Generator().manual_seed(5)
    target = torch.randn(num, num_classes, generator=generator, dtype=weight.dtype).softmax(dim=1)
    expected = reference(logits.detach().double().numpy(), target.double().numpy(), weight.double().numpy())
    check(pseudo_label_loss(logits, target, weight), logits, *expected)


def test_a_one_hot_soft_target_is_a_hard_one() -> None:
    logits, label, weight = draw(9, 4, torch.float64)
    soft = torch.from_numpy(one_hot(label.numpy(), 4))
    assert pseudo_label_loss(logits, soft, weight).item() == pytest.approx(
        pseudo_label_loss(logits, label, weight).item(), rel=1e-14
    )


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_by_finite_differences(soft: bool) -> None:
    logits, label, weight = draw(5, 4, torch.float64)
    target = torch.from_numpy(one_hot(label.numpy(), 4)) * 0.7 + 0.075 if soft else label
    assert torch.autograd.gradcheck(lambda x: pseudo_label_loss(x, target, weight), logits)
    assert torch.autograd.gradcheck(lambda x: supervised_loss(x, label), logits)


def test_masked_samples_get_no_gradient_at_all() -> None:
    logits, label, _ = draw(6, 3, torch.float32)
    weight = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 0.0])
    (gradient,) = torch.autograd.grad(pseudo_label_loss(logits, label, weight), logits)
    assert (gradient[weight == 0] == 0).all()
    assert (gradient[weight > 0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_masked_gives_exact_zeros(dtype: torch.dtype) -> None:
    logits, label, weight = draw(8, 5, dtype)
    loss = pseudo_label_loss(logits, label, torch.zeros_like(weight))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_no_samples_give_a_zero_with_a_gradient(dtype: torch.dtype, soft: bool) -> None:
    logits = torch.zeros(0, 4, dtype=dtype, requires_grad=True)
    target = torch.zeros(0, 4) if soft else torch.zeros(0, dtype=torch.int64)
    loss = pseudo_label_loss(logits, target, torch.zeros(0))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.shape == (0, 4)


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], requires_grad=True)
    label = torch.tensor([0, 1])
    loss = pseudo_label_loss(logits, label, torch.ones(2))
    assert loss.item() == pytest.approx(1e4)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 0.0], [0.5, -0.5, 0.0]]))


def test_bf16_logits_are_not_summed_in_bf16() -> None:
    # 4,096 rows of loss ln 2: a mean in bfloat16 would be a multiple of 2**-8.
    logits = torch.zeros(4096, 2, dtype=torch.bfloat16)
    label = torch.zeros(4096, dtype=torch.int64)
    assert supervised_loss(logits, label).item() == pytest.approx(math.log(2), rel=1e-6)
    assert pseudo_label_loss(logits, label, torch.full((4096,), 0.3)).item() == pytest.approx(0.3 * math.log(2), 1e-6)
