"""Statistics of one pass that normalise another: against numpy, in value and gradient, and what is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layermatch.errors import UserError
from layermatch.networks import BatchStatistics, wrn_small

EPS = 1e-3


def make_network(momentum: float | None = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.BatchNorm1d(4, eps=EPS, momentum=momentum), nn.BatchNorm1d(3, eps=EPS, momentum=momentum)
    network = nn.Sequential(nn.Linear(5, 4), first, nn.Tanh(), nn.Linear(4, 3), second).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def random_images(number: int, seed: int) -> Tensor:
    return torch.randn(number, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_norm(x: np.ndarray, others: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """``x`` normalised by the mean and the biased variance of ``others``, one value at a time."""
    out = np.empty_like(x)
    for channel in range(x.shape[1]):
        mean = sum(others[:, channel]) / len(others)
        variance = sum((value - mean) ** 2 for value in others[:, channel]) / len(others)
        for row in range(len(x)):
            out[row, channel] = (x[row, channel] - mean) / np.sqrt(variance + EPS) * scale[channel] + shift[channel]
    return out


def slow_network(parameters: list[np.ndarray], x: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What :func:`make_network` gives for ``x`` where ``others`` give the statistics of each BatchNorm."""
    w1, b1, scale1, shift1, w2, b2, scale2, shift2 = parameters
    x, others = x @ w1.T + b1, others @ w1.T + b1
    x, others = (np.tanh(slow_norm(z, others, scale1, shift1)) for z in (x, others))
    x, others = x @ w2.T + b2, others @ w2.T + b2
    return slow_norm(x, others, scale2, shift2)


def test_both_passes_are_those_of_numpy() -> None:
    network = make_network()
    statistics = BatchStatistics(network)
    images, others = random_images(7, 1), random_images(4, 2)
    parameters = [parameter.detach().numpy() for parameter in network.parameters()]
    with statistics.taken():
        out = network(images)
    with statistics.applied(), torch.no_grad():
        out_others = network(others)
    np.testing.assert_allclose(
        out.detach(), slow_network(parameters, images.numpy(), images.numpy()), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        out_others, slow_network(parameters, others.numpy(), images.numpy()), rtol=1e-12, atol=1e-12
    )


def test_the_gradient_is_that_of_numpy_by_central_differences() -> None:
    network = make_network()
    statistics = BatchStatistics(network)
    images, others = random_images(7, 1), random_images(4, 2)
    with statistics.taken():
        out = network(images)
    with statistics.applied(), torch.no_grad():
        network(others)
    (out**3).mean().backward()

    parameters = [parameter.detach().clone().numpy() for parameter in network.parameters()]
    for number, parameter in enumerate(network.parameters()):
        assert parameter.grad is not None
        for place in np.ndindex(*parameter.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [each.copy() for each in parameters]
                moved[number][place] += step
                sides.append((slow_network(moved, images.numpy(), images.numpy()) ** 3).mean())
            assert float(parameter.grad[place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("momentum", [0.1, 1e-3, 1.0, None])
def test_running_statistics_move_as_without_it(momentum: float | None) -> None:
    network, plain = make_network(momentum), make_network(momentum)
    statistics = BatchStatistics(network)
    for seed in range(3):
        with statistics.taken():
            network(random_images(6, seed))
        with statistics.applied():
            network(random_images(9, 100 + seed))
        plain(random_images(6, seed))
    found, expected = dict(network.named_buffers()), dict(plain.named_buffers())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    assert all(norm.momentum == momentum for norm in network if isinstance(norm, nn.BatchNorm1d))
    assert all(module.training for module in network.modules())


def test_a_batch_norm_that_takes_no_part_stays_as_it_is() -> None:
    network = make_network()
    unused = nn.BatchNorm1d(4).double()
    statistics = BatchStatistics(nn.ModuleList([network, unused]))
    with torch.no_grad():
        unused.running_mean.fill_(3.0)  # type: ignore[union-attr]
        unused.running_var.fill_(4.0)  # type: ignore[union-attr]
    unused(random_images(6, 9)[:, :4])  # an earlier pass, in which it took part
    before = {name: value.clone() for name, value in unused.named_buffers()}
    images = random_images(5, 2)[:, :4]
    for seed in range(2):
        with statistics.taken():
            network(random_images(6, seed))
        with statistics.applied():
            found = unused(images)
    assert all(torch.equal(value, before[name]) for name, value in unused.named_buffers())
    assert unused.training
    assert torch.equal(found, copy.deepcopy(unused).eval()(images))


def test_a_wide_residual_network_has_its_own_images_as_it_had_them() -> None:
    torch.manual_seed(0)
    network = wrn_small(num_classes=10)
    plain = copy.deepcopy(network)
    statistics = BatchStatistics(network)
    images = torch.randn(8, 3, 8, 8)
    with statistics.taken():
        out = network(images)
    with statistics.applied(), torch.no_grad():
        again = network(images[:3])
    out.logits.logsumexp(dim=1).sum().backward()
    expected = plain(images)
    expected.logits.logsumexp(dim=1).sum().backward()
    assert torch.equal(out.logits, expected.logits)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(network.parameters(), plain.parameters(), strict=True))
    torch.testing.assert_close(again.logits, out.logits[:3], rtol=1e-4, atol=1e-5)


def test_a_pass_that_is_not_finite_is_forgotten() -> None:
    network, fresh = make_network(), make_network()
    statistics = BatchStatistics(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    with statistics.taken():
        network(random_images(6, 1) * float("nan"))
    for name, value in network.named_buffers():
        value.copy_(before[name])  # as a step that is not applied does
    with statistics.taken():
        network(random_images(6, 2))
    with statistics.applied():
        found = network(random_images(3, 3))
    other = BatchStatistics(fresh)
    with other.taken():
        fresh(random_images(6, 2))
    with other.applied():
        assert torch.equal(found, fresh(random_images(3, 3)))
    assert found.isfinite().all()


def test_frozen_layers_stay_frozen() -> None:
    network = make_network()
    network[1].eval()
    before = network[1].running_mean.clone()
    statistics = BatchStatistics(network)
    with statistics.taken():
        network(random_images(6, 1))
    with statistics.applied():
        network(random_images(6, 2))
    assert torch.equal(network[1].running_mean, before)
    assert [network[1].training, network[4].training] == [False, True]
    assert not torch.equal(network[4].running_mean, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("phase", ["taken", "applied"])
def test_an_error_within_leaves_the_network_as_it_was(phase: str) -> None:
    network = make_network()
    statistics = BatchStatistics(network)
    with statistics.taken():
        network(random_images(6, 1))
    pointers = [buffer.data_ptr() for buffer in network.buffers()]
    context: Callable[[], object] = getattr(statistics, phase)
    with pytest.raises(RuntimeError), context():  # type: ignore[attr-defined]
        network(torch.zeros(2, 99, dtype=torch.float64))
    assert [buffer.data_ptr() for buffer in network.buffers()] == pointers
    assert all(module.training for module in network.modules())
    assert network[1].momentum == 0.1


def test_a_norm_without_running_statistics_is_refused() -> None:
    with pytest.raises(UserError, match="track_running_stats=False"):
        BatchStatistics(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_and_is_compiled_twice_at_most() -> None:
    network, plain = make_network(), make_network()
    statistics, other = BatchStatistics(network), BatchStatistics(plain)
    compiled = torch.compile(network)
    torch._dynamo.utils.counters.clear()
    for seed in range(4):
        found = []
        for each, run in ((statistics, compiled), (other, plain)):
            with each.taken():
                out = run(random_images(6, seed))
            with each.applied(), torch.no_grad():
                out_others = run(random_images(6, 100 + seed))
            found.append((out, out_others))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
