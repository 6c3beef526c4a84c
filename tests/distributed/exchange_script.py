"""Two steps in two processes with each kind of exchange: ``python exchange_script.py OUT``; see test_many_devices."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.conftest import digits_data, small_algorithm

from layermatch.trainer import EXCHANGES, make_trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for exchange in EXCHANGES:  # in the same processes: to start them takes longer than to train
        data = digits_data(batch_size=8, batch_of="all")
        algorithm = small_algorithm(data, layer_gradients_every=0)
        trainer = make_trainer(
            accelerator="cpu", strategy="ddp", devices=2, precision="32-true", max_steps=2, eval_every=100,
            accumulate=1, run_dir=out, loggers=[], callbacks=[], exchange=exchange,
        )  # fmt: skip
        trainer.fit(algorithm, datamodule=data)
        torch.save(algorithm.network.state_dict(), out / f"{exchange}-{trainer.global_rank}.pt")
        trainer.strategy.barrier()  # who waits for the first process finds what each has written
