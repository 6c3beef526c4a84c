"""More processes than images to evaluate: those beyond take their part without one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import processes

from layermatch.data.batch import EvalBatch
from layermatch.data.steps import EvalSteps
from layermatch.networks import resnet50, wrn_small

Make = Callable[..., Any]


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_evaluation_without_images_counts_nothing(
    channels_last: bool, make_data: Make, make_algorithm: Make
) -> None:
    data = make_data(channels_last=channels_last)
    algorithm = make_algorithm(data).eval()
    steps = EvalSteps(data.test, batch_size=8, rank=len(data.test), world_size=len(data.test) + 1)
    (batch,) = (data.on_after_batch_transfer(steps[i], 0) for i in range(len(steps)))
    assert isinstance(batch, EvalBatch)
    outputs = algorithm.test_step(batch, 0)
    assert {name: tuple(out.logits.shape) for name, out in outputs.items()} == {"live": (0, 10), "ema": (0, 10)}
    assert algorithm.evaluation.confusions["test_ema"].confmat.sum() == 0


@pytest.mark.parametrize("model", [wrn_small, resnet50])
def test_networks_take_no_image(model: Callable[..., torch.nn.Module]) -> None:
    with torch.no_grad():
        out = model(num_classes=3).eval()(torch.zeros(0, 3, 32, 32))
    assert out.logits.shape == (0, 3)


@pytest.mark.distributed
def test_three_processes_evaluate_two_images(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, number in (("train", 6), ("test", 1)):
        for name in ("ant", "bee"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    command = [
        sys.executable, "-m", "layermatch.run", "run_dir=out", "experiment=folder", "data.root=pictures",
        "data.image_size=8", "data.num_labels=2", "data.num_val=2", "data.batch_size=2", "data.mu=1", "eval_every=1",
        "trainer.max_steps=2", "trainer=ddp_cpu", "trainer.devices=3", "trainer.precision=32-true", "model=wrn_small",
    ]  # fmt: skip
    done = processes.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert sum(map(sum, results["confusion"])) == 2
    assert results["val"]["accuracy"] in {0.0, 0.5, 1.0}
    with (tmp_path / "out/predictions.csv").open() as file:
        assert [row["index"] for row in csv.DictReader(file)] == ["0", "1"]
