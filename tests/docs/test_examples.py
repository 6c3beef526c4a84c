"""The examples of README and of docs/python.md run as they stand, with fewer steps."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from layermatch import SemiSupervisedData, SemiSupervisedModule
from layermatch.data.sources import Digits
from layermatch.networks import wrn_small

ROOT = Path(__file__).parents[2]
QUIET = "logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False"


def blocks(path: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), flags=re.DOTALL)


def run(code: str, folder: Path) -> dict[str, Any]:
    """The names that an example leaves."""
    (folder / "example.py").write_text(code, encoding="utf-8")
    return runpy.run_path(str(folder / "example.py"))


def test_the_example_of_the_readme_trains(tmp_path: Path) -> None:
    (example,) = blocks("README.md")
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 10
    short = re.sub(r"max_steps=\d+", f"max_steps=2, {QUIET}", example)
    assert short != example
    names = run(short, tmp_path)
    assert names["model"].global_step == 2
    assert "loss/features" in names["model"].latest


def test_the_method_of_the_page_trains(tmp_path: Path) -> None:
    names = run(blocks("docs/python.md")[1], tmp_path)
    data = SemiSupervisedData(Digits(), num_labels=10, batch_size=8, mu=2)
    module = SemiSupervisedModule(
        wrn_small(in_channels=1), names["TwoViews"](), log_every=1, layer_gradients_every=1,
        gradient_scale={"extractor.stem": 0.5},
    )  # fmt: skip
    Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path).fit(
        module, datamodule=data
    )
    latest = module.latest
    # The consistency loss reaches the extractor alone.
    assert latest["loss/features"] > latest["loss/classifier"] == pytest.approx(latest["loss/supervised"])
    assert latest["layers/stem/grad_norm_pseudo"] > 0
    assert latest["layers/classifier/grad_norm_pseudo"] == 0


def test_the_long_example_of_the_page_names_what_is_there(tmp_path: Path) -> None:
    """It downloads CIFAR-10, so only its imports run here."""
    imports = re.findall(r"^(?:from|import) .*$", blocks("docs/python.md")[0], flags=re.MULTILINE)
    assert len(imports) >= 10
    assert {"SemiSupervisedData", "PseudoLabelling"} <= set(run("\n".join(imports), tmp_path))
