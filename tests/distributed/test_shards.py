"""Two processes that stream shards do what one does, and go on in the middle of a shard."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.data.stand_ins import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

#: Without batch statistics, which each process has of its own images.
PLUGIN = """
from torch import nn
from layermatch import Network

def plain(*, num_classes=None, in_channels=3):
    layers = [nn.Conv2d(in_channels, 4, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return Network(nn.Sequential(*layers), num_features=36, num_classes=num_classes)
"""
PICTURES = ("data.image_size=8", "data.num_labels=6", "output=shards", "images_per_shard=4")
SETTINGS = (
    "data=shards", "data.root=shards", "data.image_size=8", "data.mu=2", "data.window=2", "data.num_labels=null",
    "data.num_val=0", "~model", "+model._target_=plain_plugin.plain", "plugins=[plain_plugin]",
    "trainer.precision=32-true", "schedule=constant", "algorithm=fixmatch", "algorithm.layer_gradients_every=0",
    "pseudo_labels.threshold=0.34", "optimizer.lr=0.1",
    "checkpoint.every_n_steps=3", "eval_every=3",
)  # fmt: skip


def start(cwd: Path, *words: str) -> None:
    done = processes.run([sys.executable, "-m", *words], cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(run_dir / "checkpoints" / "step-0000006.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in saved.items() if name.startswith(("network.", "ema.network."))}


def test_two_processes_are_one_and_go_on_in_a_shard(tmp_path: Path) -> None:
    (tmp_path / "plain_plugin.py").write_text(PLUGIN)
    write_folder(tmp_path / "pictures", size=8)
    start(tmp_path, "layermatch.shard", "data=folder", "data.root=pictures", *PICTURES)
    two = ("trainer=ddp_cpu", "data.batch_size=2")
    for name, *more in (
        ("one", "trainer=cpu", "data.batch_size=4", "trainer.max_steps=6"),
        ("two", *two, "trainer.max_steps=6"),
        ("parts", *two, "trainer.max_steps=3"),  # 12 of the 18 images: the third shard of seven is begun
        ("parts", *two, "trainer.max_steps=6", "ckpt_path=last"),
    ):
        start(tmp_path, "layermatch.run", f"run_dir={name}", *SETTINGS, *more)
    one, two_, parts = (weights(tmp_path / name) for name in ("one", "two", "parts"))
    fresh = one["network.classifier.weight"] - one["ema.network.classifier.weight"]
    assert fresh.abs().max() > 1e-4  # something was learnt
    for name, value in one.items():
        torch.testing.assert_close(value, two_[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(two_[name], parts[name]), name
