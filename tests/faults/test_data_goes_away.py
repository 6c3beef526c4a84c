"""Images, caches and reading processes that are lost in the middle of a run: one line, and the run can go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.data import stand_ins
from tests.faults.runs import finish, newest_step, start, wait_for
from tests.processes import Process

from layermatch import run as run_module
from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import Folder
from layermatch.errors import RunError

Fault = Callable[..., None]

SIZE = 12
EVERY = 5  # steps between two checkpoints
LOST = "the steps since the last checkpoint"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run starts; the pictures are in ``pictures``, and once more in ``copy``."""
    monkeypatch.chdir(tmp_path)
    stand_ins.write_folder(tmp_path / "pictures", classes=("cat", "dog"), per_class=30, test_per_class=3, size=SIZE)
    shutil.copytree(tmp_path / "pictures", tmp_path / "copy")
    return tmp_path


def settings(folder: Path, storage: str) -> tuple[str, ...]:
    return (
        "experiment=folder", "data.root=pictures", f"data.image_size={SIZE}", f"data.cache_dir={folder / 'cache'}",
        f"data.storage={storage}", "data.num_workers=2", "data.num_labels=8", "data.batch_size=4", "data.mu=2",
        "model=wrn_small", "trainer=cpu", "trainer.precision=32-true", "schedule=constant", "run_dir=out",
        f"checkpoint.every_n_steps={EVERY}",
    )  # fmt: skip


@contextmanager
def endless_run(folder: Path, storage: str) -> Iterator[Process]:
    """A run that only a fault will end, once it has written its first checkpoints."""
    process = start(folder, *settings(folder, storage), "trainer.max_steps=1000000")
    try:
        wait_for(lambda: last_step(folder) >= 2 * EVERY, process)
        yield process
    finally:
        process.kill()


def last_step(folder: Path) -> int:
    """By the names of checkpoints, none of which is read: the run replaces them all the time."""
    return max((int(path.stem.partition("-")[2]) for path in folder.glob("out/checkpoints/step-*.ckpt")), default=0)


def one_line_of(process: Process) -> str:
    """What a run said that ended by itself, and for something that happened to it."""
    status, text = finish(process)
    assert status == 1, text
    (line,) = text.splitlines()
    return line


def goes_on(folder: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume in this process, which has loaded all that the command line needs, and finish."""
    at = newest_step(folder / "out")
    assert at >= 2 * EVERY
    options = (*settings(folder, storage), f"trainer.max_steps={at + 2}", "ckpt_path=last")
    monkeypatch.setattr(sys, "argv", ["layermatch.run", *options])
    run_module.main()
    assert json.loads((folder / "out" / "results.json").read_text())["steps"] == at + 2


@pytest.mark.slow
def test_the_folder_of_images_vanishes(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    with endless_run(folder, "lazy") as process:
        shutil.rmtree(folder / "pictures")
        line = one_line_of(process)
    assert line.startswith("error: the image pictures/train/")
    assert line.endswith(
        ".png cannot be read any more: No such file or directory: put it back and go on with ckpt_path=last"
    )
    (folder / "copy").rename(folder / "pictures")
    goes_on(folder, "lazy", monkeypatch)
    fault("the folder of images vanishes while it is decoded", tried=1, survived=1, lost=LOST)


@pytest.mark.slow
def test_the_cache_is_deleted_and_then_cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    with endless_run(folder, "disk") as process:
        caches = sorted((folder / "cache").glob("*.npy"))
        assert [path.name.partition("-")[0] for path in caches] == ["6", "60"]
        os.link(caches[1], folder / "the same file")
        shutil.rmtree(folder / "cache")
        shutil.rmtree(folder / "pictures")
        so_far = last_step(folder)
        wait_for(lambda: last_step(folder) >= so_far + 3 * EVERY, process)
        fault("the cache and the images are deleted while the cache is read", tried=1, survived=1, lost="nothing")
        os.truncate(folder / "the same file", 300)
        line = one_line_of(process)
    assert line == (
        f"error: the file {caches[1]} cannot be read any more: it became shorter: put it back and go on with "
        "ckpt_path=last"
    )
    (folder / "copy").rename(folder / "pictures")
    goes_on(folder, "disk", monkeypatch)
    fault("the cache is cut off while it is read", tried=1, survived=1, lost=LOST)


@pytest.mark.slow
def test_a_loader_process_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    with endless_run(folder, "lazy") as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        line = one_line_of(process)
    assert line.startswith("error: a process that reads images ")
    assert "go on with ckpt_path=last" in line
    goes_on(folder, "lazy", monkeypatch)
    fault("a process of the loader is killed", tried=1, survived=1, lost=LOST)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_is_damaged_after_the_check(num_workers: int, folder: Path, fault: Fault) -> None:
    data = SemiSupervisedData(
        Folder(root="pictures", image_size=SIZE), weak=WeakView(), strong=StrongView(), num_labels=8, batch_size=4,
        mu=7, mean=(0.5,) * 3, std=(0.25,) * 3, seed=0, storage="lazy", cache_dir=folder / "cache",
        num_workers=num_workers,
    )  # fmt: skip
    data.setup()
    batches = iter(data.train_dataloader())
    next(batches)
    for path in (folder / "pictures" / "train").rglob("*.png"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(RunError, match=r"^the image pictures/train/\S+ cannot be read any more: image file is trunc"):
        [next(batches) for _ in range(10)]
    fault(f"images are damaged after the check, num_workers={num_workers}", tried=1, survived=1, lost=LOST)
