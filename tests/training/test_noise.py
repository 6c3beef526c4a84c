"""Layers that draw random numbers, as dropout does, draw the same ones in a run that was stopped and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import digits_data, small_algorithm
from torch import nn

from layermatch.layerwise import SeparateLosses
from layermatch.trainer import make_trainer
from layermatch.training import SemiSupervisedModule
from layermatch.training.noise import seed_generators


def with_dropout() -> SemiSupervisedModule:
    algorithm = small_algorithm(
        digits_data(num_val=0), SeparateLosses(avg_clustering="ema_centroids"), threshold=0.11, accumulate=2
    )
    for network in (algorithm.network, algorithm.ema.network):
        network.extractor = nn.Sequential(network.extractor, nn.Dropout(0.5))
    return algorithm


def train(max_steps: int, out: Path, *, ckpt_path: Path | None = None) -> SemiSupervisedModule:
    algorithm = with_dropout()
    trainer = make_trainer(
        accelerator="cpu", precision="32-true", max_steps=max_steps, eval_every=100, accumulate=2, run_dir=out,
        callbacks=[], loggers=[],
    )  # fmt: skip
    torch.rand(max_steps)  # what else the process has drawn does not matter
    trainer.fit(algorithm, datamodule=digits_data(num_val=0), ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(out / f"{max_steps}.ckpt")
    return algorithm


def test_dropout_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = train(6, tmp_path)
    train(3, tmp_path)
    resumed = train(6, tmp_path, ckpt_path=tmp_path / "3.ckpt")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_every_batch_has_its_own_numbers(tmp_path: Path) -> None:
    algorithm = train(1, tmp_path)
    drawn = []
    for batch_idx in range(4):
        algorithm._seed_noise(batch_idx)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2]  # batches 0 and 1 of the same step
    assert drawn[0] != drawn[1]
    algorithm.noise_seed += 1
    algorithm._seed_noise(0)
    assert torch.rand(3).tolist() != drawn[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_it_draws_after_manual_seed() -> None:
    device = torch.device("cuda", 0)
    torch.manual_seed(5)
    expected = torch.rand(4, device=device)
    seed_generators(5, device=device)
    assert torch.equal(torch.rand(4, device=device), expected)
