"""Runs of every method and policy in one or several processes: ``python every_choice.py DEVICES BATCH_SIZE OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.methods.test_every_method import compose_settings
from tests.methods.test_state import CHOICES

from layermatch.build import build_parts, build_trainer
from layermatch.data.batch import Batch
from layermatch.methods import Method
from layermatch.parts import Losses, Step

#: The weights of ramps are 0 in the first step.
FEW = ("trainer.max_steps=3", "trainer.log_every=2", "eval_every=1000", "algorithm.layer_gradients_every=0")
SHARES = ("algorithm.supervised=0.25", "algorithm.decipher=0.25", "algorithm.reprediction=0.25")
#: The choices of the configuration, and runs that have stages or episodes: a step for each.
RUNS = CHOICES | {
    "algorithm=linear_probe": ["algorithm=linear_probe", "trainer.max_steps=1"],  # it is fitted once
    "stages": [
        "algorithm=r2d2", *SHARES, "algorithm.reprediction_rates=[0.5]", "algorithm.label_rate=100",
        "trainer.max_steps=4", "data.eval_batch_size=150",  # the pool is predicted in batches that do not divide it
    ],
    "episodes": ["algorithm.imwa={members: 2, episode: 1}", "trainer.max_steps=4"],
}  # fmt: skip


def watch_draws(method: Method) -> list[bool]:
    """Whether each batch's losses drew random numbers; filled as the method is asked for them."""
    drew: list[bool] = []
    losses = method.losses

    def watched(batch: Batch, step: Step) -> Losses:
        before = torch.get_rng_state()
        found = losses(batch, step)
        drew.append(not torch.equal(before, torch.get_rng_state()))
        return found

    method.losses = watched  # type: ignore[method-assign]
    return drew


def train(choice: str, *, devices: int, batch_size: int, out: Path) -> None:
    ranks = (f"trainer.devices={devices}", f"trainer.strategy={'ddp' if devices > 1 else 'auto'}")
    settings = compose_settings(*ranks, *FEW, f"data.batch_size={batch_size}", *RUNS[choice])
    parts = build_parts(settings)
    module = parts.algorithm
    for norm in module.modules():  # batch statistics would differ between a rank's part and the whole
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.eval()  # Lightning leaves the mode that it finds
    before: dict[str, Tensor] = {name: value.clone() for name, value in module.state_dict().items()}
    drew = watch_draws(module.method)
    trainer = build_trainer(settings, run_dir=out, callbacks=[], loggers=[])
    trainer.fit(module, datamodule=parts.data)
    found = {"before": before, "state": module.state_dict(), "latest": module.latest, "drew": any(drew)}
    torch.save(found, out / f"{choice}-{trainer.world_size}-{trainer.global_rank}.pt")
    trainer.strategy.barrier()  # who waits for the first process finds what each has written


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in RUNS:  # one after another in the same processes: to start them takes longer than to train
        train(each, devices=int(sys.argv[1]), batch_size=int(sys.argv[2]), out=Path(sys.argv[3]))
