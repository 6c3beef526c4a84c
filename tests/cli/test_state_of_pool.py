"""What a method keeps of each image of its pool does not hinder an evaluation, where the pool is another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from layermatch import run
from layermatch.evaluate import evaluate

SMALL = (
    "experiment=digits", "data.batch_size=8", "data.mu=1", "data.num_labels=40", "model.width=1", "trainer=cpu",
    "trainer.precision=32-true", "trainer.max_steps=2", "eval_every=2", "algorithm.layer_gradients_every=0",
    "data.num_val=150", "logger=none",
)  # fmt: skip


@pytest.mark.parametrize("algorithm", ["flexmatch", "r2d2", "dho", "finessl", "vpet"])
def test_an_evaluation_gives_what_the_run_reported(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["layermatch.run", *SMALL, f"algorithm={algorithm}", "run_dir=out"])
    run.main()
    results = json.loads(Path("out/results.json").read_text(encoding="utf-8"))
    for split in ("test", "val"):
        found = evaluate("out/checkpoints/step-0000002.ckpt", split=split)
        assert found == {name: results[split][name] for name in found}, split
