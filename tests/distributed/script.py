"""Runs of every rule in one or several processes: ``python script.py DEVICES BATCH_SIZE OUT``; see test_ddp.py."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import digits_data, small_algorithm

from layermatch.callbacks import FeatureClustering, TestPredictions
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.trainer import make_trainer

with_centres = partial(SeparateLosses, avg_clustering="ema_centroids")

RULES = {
    "uniform": Uniform,
    "layermatch": with_centres,
    "ema_outputs": lambda: SeparateLosses(avg_clustering="ema_outputs"),
    "ema_classifier": lambda: SeparateLosses(avg_clustering="ema_classifier"),
    "ema_teacher": lambda: SeparateLosses(avg_clustering="ema_teacher"),
    "conflict": lambda: SeparateLosses(grad_relu="conflict"),
    "scaled": Uniform,
    "accumulate": with_centres,
    "shared": with_centres,
    "split": with_centres,
    "unmeasured": with_centres,  # as `layermatch`, without layers/*
}


#: Forwards with BatchNorm by the statistics of the batch, of which each rank has its own.
BY_THEIR_BATCH = ("joint", "shared", "split")


def train_by_their_batch(forward: str, *, devices: int, batch_size: int, out: Path) -> None:
    data = digits_data(batch_size=batch_size, num_val=49)
    algorithm = small_algorithm(data, Uniform(), threshold=0.11, log_every=2, forward=forward)
    trainer = make_trainer(
        accelerator="cpu", strategy="ddp", devices=devices, precision="32-true", max_steps=4, eval_every=2,
        accumulate=1, run_dir=out, loggers=[], callbacks=[],
    )  # fmt: skip
    trainer.fit(algorithm, datamodule=data)
    torch.save(algorithm.state_dict(), out / f"by-their-batch-{forward}-{trainer.global_rank}.pt")
    trainer.strategy.barrier()


def train(rule: str, *, devices: int, batch_size: int, out: Path) -> None:
    data = digits_data(batch_size=batch_size, num_val=49)  # 49: no world size but 1 and 7 divides it
    accumulate = 2 if rule == "accumulate" else 1
    every = 0 if rule == "unmeasured" else 2
    scale = {"extractor.groups.0": 0.5, "classifier": 0.0} if rule == "scaled" else None
    algorithm = small_algorithm(
        data, RULES[rule](), threshold=0.11, accumulate=accumulate, clip_norm=5.0, log_every=2, gradient_scale=scale,
        layer_gradients_every=every, forward=rule if rule in {"shared", "split"} else "joint",
    )  # fmt: skip
    predictions = TestPredictions()
    for module in algorithm.network.modules():  # batch statistics would differ between a rank's part and the whole
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # Lightning leaves the mode that it finds
    trainer = make_trainer(
        accelerator="cpu", strategy="ddp" if devices > 1 else "auto", devices=devices, precision="32-true", max_steps=4,
        eval_every=2 * accumulate, accumulate=accumulate, run_dir=out, loggers=[],
        callbacks=[FeatureClustering(eval_every=2), predictions],
    )  # fmt: skip
    trainer.fit(algorithm, datamodule=data)
    trainer.test(algorithm, datamodule=data, verbose=False)
    found = {
        "state": algorithm.state_dict(),
        "latest": algorithm.latest,
        "confusion": algorithm.evaluation.test_confusion,
        "predictions": predictions.table._asdict(),
    }
    torch.save(found, out / f"{rule}-{trainer.world_size}-{trainer.global_rank}.pt")
    trainer.strategy.barrier()  # who waits for the first process finds what each has written


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in RULES:  # one after another in the same processes: to start them takes longer than to train
        train(name, devices=int(sys.argv[1]), batch_size=int(sys.argv[2]), out=Path(sys.argv[3]))
    for name in BY_THEIR_BATCH if int(sys.argv[1]) > 1 else ():
        train_by_their_batch(name, devices=int(sys.argv[1]), batch_size=int(sys.argv[2]), out=Path(sys.argv[3]))
