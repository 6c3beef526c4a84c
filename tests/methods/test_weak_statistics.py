"""Each trial changes one statistic of BatchNorm, and leaves the others as ``forward=split`` has them."""

from __future__ import annotations

import pytest
import torch

from layermatch.layerwise import Uniform
from layermatch.methods import PseudoLabelling
from layermatch.methods.weak_statistics import WeakByAverages, WeakNotAveraged
from layermatch.networks import wrn_small
from layermatch.policies import FixedThreshold


@pytest.mark.parametrize(
    ("trial", "moves_averages", "by_averages"),
    [(PseudoLabelling, True, False), (WeakNotAveraged, False, False), (WeakByAverages, False, True)],
)
def test_each_trial_changes_one_statistic(
    trial: type[PseudoLabelling], *, moves_averages: bool, by_averages: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = wrn_small(num_classes=10, in_channels=1)
    method = trial(policy=FixedThreshold(), rule=Uniform(), forward="split")
    weak = torch.rand(8, 1, 8, 8, generator=generator)
    before = {name: buffer.clone() for name, buffer in network.named_buffers() if name.endswith("running_mean")}
    with torch.no_grad():
        expected = network.eval()(weak).logits
    network.train()
    found = method.send_weak(weak, network).logits
    assert network.training
    assert bool(torch.equal(found, expected)) == by_averages
    after = {name: buffer for name, buffer in network.named_buffers() if name.endswith("running_mean")}
    assert all(torch.equal(before[name], after[name]) != moves_averages for name in before)
    with torch.no_grad():  # momenta are what they were: an ordinary pass moves the averages
        network(weak)
    assert all(not torch.equal(before[name], after[name]) for name in before)
