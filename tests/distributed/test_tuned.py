"""Two processes that tune a part of a pretrained network do what one does; what is frozen is each one's own file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.cli.test_pretrained_runs import SETTINGS
from tests.data.stand_ins import write_folder

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("tune", ["lora", "last_n"])
def test_two_processes_are_one(tune: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write_folder(tmp_path / "pictures", per_class=12, test_per_class=4)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    # SGD, as Adam makes much of a gradient that only rounding keeps from 0.
    changed = ("trainer=", "data.batch_size", "optimizer=")
    words = [word for word in SETTINGS if not word.startswith(changed)] + [f"model.tune={tune}", "optimizer.lr=0.1"]
    words.append(
        "trainer.precision=32-true"
    )  # bf16, where the processor has it, rounds two halves otherwise than one whole
    for name, more in {
        "two": ("trainer=ddp_cpu", "trainer.devices=2", "data.batch_size=2"),
        "one": ("trainer=cpu", "data.batch_size=4"),
    }.items():
        done = processes.run([sys.executable, "-m", "layermatch.run", f"run_dir={name}", *words, *more], cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "step-0000004.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    learning = [name for name in one if name.startswith(("network.extractor.blocks", "network.extractor.layers"))]
    moved = [(one[name] - one[f"ema.{name}"]).abs().max() for name in learning]
    assert max(moved) > 1e-5  # a part of the extractor has learnt
    for name, value in one.items():
        if name.startswith(("network.", "ema.network.")) and value.is_floating_point():
            torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-5)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["test"] == results[1]["test"]
