"""A user's own Trainer, two processes, Lightning's defaults: ``python own_trainer.py OUT``; see test_own_trainer.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lightning.pytorch import Trainer

from layermatch import LayerMatch, SemiSupervisedData
from layermatch.data.sources import Digits
from layermatch.networks import wrn_small

if __name__ == "__main__":
    out = Path(sys.argv[1])
    data = SemiSupervisedData(Digits(), num_labels=10, num_val=49, batch_size=4, mu=2)
    module = LayerMatch(wrn_small(in_channels=1))
    seen = []
    losses = module.method.losses
    module.method.losses = lambda batch, step: seen.append(batch.unlabelled.indices.tolist()) or losses(batch, step)
    trainer = Trainer(
        max_steps=3, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data, verbose=False)
    counted = int(module.evaluation.test_confusion.sum())
    (out / f"{trainer.global_rank}.json").write_text(json.dumps({"seen": seen, "counted": counted}))
    trainer.strategy.barrier()  # who waits for the first process finds what each has written
