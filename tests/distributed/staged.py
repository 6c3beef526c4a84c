"""Runs of R2-D2 and of IMWA in one or several processes: ``python staged.py DEVICES BATCH_SIZE OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import digits_data, small_algorithm, small_module

from layermatch.layerwise import Uniform
from layermatch.methods import R2D2
from layermatch.trainer import make_trainer

RUNS = ("r2d2", "imwa")


def train(name: str, *, devices: int, batch_size: int, out: Path) -> None:
    data = digits_data(batch_size=batch_size, num_val=49)  # 1388 images in the pool, in batches that do not divide it
    data.eval_batch_size = 150
    if name == "r2d2":
        lengths = {"supervised": 0.25, "decipher": 0.25, "reprediction": 0.25}
        method = R2D2(rule=Uniform(), **lengths, reprediction_rates=[0.5], label_rate=100.0)
        module = small_module(data, method)
    else:
        module = small_algorithm(data, imwa={"members": 2, "episode": 1}, threshold=0.11)
    for norm in module.network.modules():  # batch statistics would differ between a rank's part and the whole
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval()  # Lightning leaves the mode that it finds
    trainer = make_trainer(
        accelerator="cpu", strategy="ddp" if devices > 1 else "auto", devices=devices, precision="32-true", max_steps=6,
        eval_every=100, accumulate=1, run_dir=out, loggers=[], callbacks=[],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    torch.save(module.state_dict(), out / f"{name}-{trainer.world_size}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in RUNS:
        train(each, devices=int(sys.argv[1]), batch_size=int(sys.argv[2]), out=Path(sys.argv[3]))
