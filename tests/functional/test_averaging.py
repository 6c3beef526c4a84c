"""Exponential moving averages against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.functional import bias_corrected_ema, ema, relative_change, warmup_decay

DTYPES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-2}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.999])
def test_warmup_decay_grows_to_its_final_value(decay: float) -> None:
    decays = [warmup_decay(decay, t) for t in range(20000)]
    for t, value in enumerate(decays):
        assert value == min(decay, (1 + t) / (10 + t))
    assert decays == sorted(decays)
    assert decays[-1] == decay


def test_warmup_decay_in_numbers() -> None:
    numbers = {0: 0.1, 8: 0.5, 90: 0.91, 8989: 8990 / 8999, 8990: 0.999, 10**6: 0.999}
    assert {t: warmup_decay(0.999, t) for t in numbers} == numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99, 1.0])
def test_ema_over_several_updates(dtype: torch.dtype, decay: float) -> None:
    average = draw(4, 3, dtype=dtype)
    expected = average.double().numpy().copy()
    for t in range(1, 11):
        value = draw(4, 3, dtype=dtype, seed=t)
        average = ema(average, value, decay)
        for index in np.ndindex(4, 3):
            expected[index] = decay * expected[index] + (1 - decay) * value[index].item()
    assert average.dtype == dtype
    np.testing.assert_allclose(average.double().numpy(), expected, rtol=0, atol=DTYPES[dtype] * 5)


def test_ema_takes_a_decay_for_each_row_and_changes_nothing_in_place() -> None:
    average, value = draw(3, 2), draw(3, 2, seed=1)
    decay = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    before = average.clone(), value.clone(), decay.clone()
    result = ema(average, value, decay)
    expected = [value[0].tolist(), ((average[1] + value[1]) / 2).tolist(), average[2].tolist()]
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)
    assert all(torch.equal(now, then) for now, then in zip((average, value, decay), before, strict=True))


def test_ema_broadcasts_the_value() -> None:
    average = draw(3, 2)
    np.testing.assert_allclose(ema(average, torch.tensor(2.0), 0.25).numpy(), 0.25 * average.numpy() + 1.5, rtol=1e-13)


def test_gradients_by_finite_differences() -> None:
    average, value = draw(3, 2).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    num_updates = torch.tensor([1, 2, 50])
    assert torch.autograd.gradcheck(lambda a, v: ema(a, v, 0.3), (average, value))
    assert torch.autograd.gradcheck(lambda a: bias_corrected_ema(a, num_updates, 0.9), average)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.99])
def test_a_corrected_average_is_the_weighted_mean_of_what_went_in(
    decay: float, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    num_updates = torch.tensor([1, 2, 3, 10, 400])
    average = torch.zeros(5, *shape, dtype=dtype)
    expected = np.zeros((5, *shape))
    for row, count in enumerate(num_updates.tolist()):
        values = [draw(*shape, seed=t).numpy() for t in range(count)]
        weights = [decay ** (count - 1 - t) for t in range(count)]
        expected[row] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        for value in values:
            average[row] = ema(average[row], torch.as_tensor(value).to(dtype), decay)
    corrected = bias_corrected_ema(average, num_updates, decay)
    assert corrected.dtype == dtype
    # 1 - 0.99 keeps five of float32's seven digits.
    np.testing.assert_allclose(corrected.numpy(), expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 5e-5)


def test_a_corrected_average_of_no_rows() -> None:
    assert bias_corrected_ema(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0.9).shape == (0, 4)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_relative_change(scale: float) -> None:
    before, after = draw(4, 3) * scale, draw(4, 3, seed=1) * scale
    norms = [sum(float(x) ** 2 for x in tensor.flatten() / scale) ** 0.5 for tensor in (after - before, before)]
    assert relative_change(before, after).item() == pytest.approx(norms[0] / norms[1], rel=1e-12)
    assert relative_change(before, before) == 0


def test_relative_change_of_nothing_is_not_finite() -> None:
    assert not relative_change(torch.zeros(3), torch.ones(3)).isfinite()
    assert not relative_change(torch.zeros(3), torch.zeros(3)).isfinite()
