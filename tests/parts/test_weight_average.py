"""The weight average against loops in float64, over several updates of a network that changes at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layermatch import UserError
from layermatch.networks import Network, wrn_small
from layermatch.parts import Step, WeightAverage


def make_network(seed: int = 0) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return wrn_small(num_classes=3, in_channels=1)


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def change(network: Network, seed: int) -> None:
    """Move every parameter, and BatchNorm's running statistics, as a training step would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    network.train()(images(seed))


def parameters(network: nn.Module) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    return {name: parameter.detach().double().numpy().copy() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_parameters_are_averaged(decay: float, warmup: bool) -> None:
    network = make_network()
    average = WeightAverage(network, decay=decay, warmup=warmup)
    expected = parameters(network)
    first_update = 20  # as after a resumed run: with warm-up, the decay is that of 20 updates
    for t in range(first_update, first_update + 8):
        change(network, seed=t)
        average.update(network, num_updates=t)
        beta = min(decay, (1 + t) / (10 + t)) if warmup else decay
        for name, live in parameters(network).items():
            expected[name] = beta * expected[name] + (1 - beta) * live
    for name, value in parameters(average.network).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=2e-6, err_msg=name)


def test_warmup_starts_at_a_decay_of_a_tenth() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.999, warmup=True)
    start = parameters(network)["classifier.weight"]
    change(network, seed=1)
    average.update(network, num_updates=0)
    expected = 0.1 * start + 0.9 * parameters(network)["classifier.weight"]
    np.testing.assert_allclose(parameters(average.network)["classifier.weight"], expected, atol=1e-6)


def test_decay_0_is_the_live_network_bit_for_bit() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0, warmup=False)
    for t in range(3):
        change(network, seed=t)
        average.update(network, num_updates=t)
        for name, value in network.state_dict().items():
            assert torch.equal(average.network.state_dict()[name], value), name
    assert torch.equal(average.network(images(9)).logits, network.eval()(images(9)).logits)


def test_buffers_are_those_of_the_live_network() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.999, warmup=False)
    change(network, seed=1)
    live = dict(network.named_buffers())
    assert any(not torch.equal(buffer, live[name]) for name, buffer in average.network.named_buffers())
    average.update(network, num_updates=0)
    assert {buffer.dtype for buffer in live.values()} == {torch.float32, torch.int64}
    for name, buffer in average.network.named_buffers():
        assert torch.equal(buffer, live[name]), name
        assert buffer.data_ptr() != live[name].data_ptr()


def test_the_average_is_a_network_of_its_own() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.9, warmup=False)
    start = parameters(network)
    change(network, seed=1)
    live = {name: value.clone() for name, value in network.state_dict().items()}
    for name, value in parameters(average.network).items():  # it follows only when it is told to
        np.testing.assert_array_equal(value, start[name])
    average.update(network, num_updates=0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, live[name]), name
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert not average.network(images()).logits.requires_grad


def test_it_stays_in_evaluation_mode() -> None:
    network = make_network().train()
    average = WeightAverage(network, decay=0.9, warmup=False)
    assert network.training
    parent = nn.ModuleList([network, average])
    for switch in (lambda: None, average.train, parent.train, lambda: average.train(True)):
        switch()
        assert not any(module.training for module in average.network.modules())
    parent.train()
    assert network.training
    before = {name: buffer.clone() for name, buffer in average.network.named_buffers()}
    average.network(images())
    for name, buffer in average.network.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_state_dict_round_trip() -> None:
    network = make_network()
    average = WeightAverage(network, decay=0.9, warmup=False)
    for t in range(3):
        change(network, seed=t)
        average.update(network, num_updates=t)
    other = WeightAverage(make_network(seed=1), decay=0.9, warmup=False)
    assert not torch.equal(other.network(images()).logits, average.network(images()).logits)
    state = {name: value.clone() for name, value in average.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other.network(images()).logits, average.network(images()).logits)
    change(network, seed=9)
    for each in (average, other):  # and they go on alike
        each.update(network, num_updates=3)
    for name, value in average.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize("warmup", [False, True])
def test_the_end_of_a_step_is_an_update_with_the_live_network(warmup: bool) -> None:
    network = make_network()
    by_step, by_hand = (WeightAverage(network, decay=0.9, warmup=warmup) for _ in range(2))
    for number in (0, 5):
        change(network, seed=number)
        step = Step(network, by_step.network, number, 10, lambda means, ratios=None: None, lambda name, tensor: None)
        by_step.after_step(step)
        by_hand.update(network, num_updates=number)
        for name, value in by_hand.state_dict().items():
            assert torch.equal(by_step.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"ema_decay=1\.0 is not legal: give a number, at least 0 and below 1"),
        ({"decay": -0.1}, r"ema_decay=-0\.1 is not legal"),
        ({"decay": "0.9"}, r"ema_decay='0\.9' is not legal"),
        ({"warmup": 1}, r"ema_warmup=1 is not legal: choose true or false"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"decay": 0.9, "warmup": False}
    with pytest.raises(UserError, match=f"^{message}"):
        WeightAverage(make_network(), **arguments | options)
    with pytest.raises(UserError, match=f"^{message}"):  # and so is it before there is a network
        WeightAverage.check(**arguments | options)
