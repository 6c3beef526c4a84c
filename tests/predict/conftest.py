"""One tiny run on a folder of odd pictures, that all tests here predict with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.data.odd_images import HANDLED
from tests.data.stand_ins import write_folder

from layermatch import run

SETTINGS = (
    "experiment=folder", "data.image_size=16", "model=wrn_small", "trainer=cpu", "data.batch_size=4", "data.mu=2",
    "data.num_labels=6", "data.num_val=9", "data.eval_batch_size=7", "data.mean=null", "data.std=null",
    "data.storage=lazy", "trainer.log_every=5", "trainer.max_steps=12", "optimizer.lr=0.1", "logger=none",
    "trainer.precision=32-true",  # on a processor with bf16, auto would differ from a file in float32 by more than 1e-4
)  # fmt: skip


@dataclass(frozen=True)
class TinyRun:
    """A finished run and its data set."""

    root: Path
    run_dir: Path

    @property
    def ckpt_path(self) -> Path:
        return self.run_dir / "checkpoints" / "step-0000012.ckpt"

    @property
    def test(self) -> Path:
        return self.root / "test"


def train(folder: Path, *settings: str) -> None:
    """``python -m layermatch.run`` with these settings, in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["layermatch.run", *SETTINGS, *settings])
        run.main()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    folder = tmp_path_factory.mktemp("run")
    root = folder / "pictures"
    write_folder(root, per_class=12, test_per_class=4)
    for name, write in HANDLED.items():
        write(root / "test" / "dog" / name)
    train(folder, f"data.root={root}", f"run_dir={folder / 'out'}")
    return TinyRun(root, folder / "out")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A command in this process, in an empty folder: its exit status."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: str) -> int:
        module = __import__(f"layermatch.{name}", fromlist=["main"])
        monkeypatch.setattr(sys, "argv", [f"layermatch.{name}", *arguments])
        try:
            module.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return call
