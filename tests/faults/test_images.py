"""Folders with images of every unusual kind: shown as they are meant, or named in one list before training starts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from signal import SIGKILL

import numpy as np
import pytest
from tests.data import odd_images, stand_ins
from tests.faults.runs import finish, start

from layermatch.data.file_images import FileImages
from layermatch.data.sources import Folder, ImageSet, SourceData
from layermatch.data.storage import Storage
from layermatch.errors import RunError
from layermatch.files import unfinished_in

Fault = Callable[..., None]

SIDE = odd_images.SIDE
LARGE: dict[str, odd_images.Writer] = {
    "large.jpg": odd_images.write_large_jpeg,
    "wide.png": odd_images.write_wide_png,
    "strip.png": odd_images.write_strip,
}
SETTINGS = (
    "experiment=folder", "data.root=pictures", f"data.image_size={SIDE}", "model=wrn_small", "trainer=cpu",
    "trainer.precision=32-true", "trainer.max_steps=3", "data.num_labels=8", "data.batch_size=4", "data.mu=2",
)  # fmt: skip


def run(folder: Path) -> tuple[int, str]:
    """Status and standard error of a run that decodes each time, by two processes."""
    lazy = ("data.storage=lazy", "data.num_workers=2", f"data.cache_dir={folder / 'cache'}", "run_dir=out")
    return finish(start(folder, *SETTINGS, *lazy))


def write_pictures(root: Path) -> None:
    stand_ins.write_folder(root, classes=("cat", "dog"), per_class=4, test_per_class=1, size=SIDE)


@pytest.mark.slow
def test_a_run_trains_and_tests_on_every_kind_of_image(tmp_path: Path, fault: Fault) -> None:
    write_pictures(tmp_path / "pictures")
    for name, write in (odd_images.HANDLED | LARGE).items():
        write(tmp_path / "pictures" / "train" / "cat" / name)
        write(tmp_path / "pictures" / "test" / "dog" / name)  # all of these are decoded, whatever training draws
    assert run(tmp_path) == (0, "")
    assert (tmp_path / "out" / "results.json").is_file()
    count = len(odd_images.HANDLED | LARGE)
    fault("image files of unusual kinds, decoded each time", tried=count, survived=count, lost="nothing")


@pytest.mark.slow
def test_a_run_names_all_bad_images_before_it_starts(tmp_path: Path, fault: Fault) -> None:
    write_pictures(tmp_path / "pictures")
    for number, (name, (write, _)) in enumerate(odd_images.REFUSED.items()):
        write(tmp_path / "pictures" / ("train", "test")[number % 2] / "cat" / name)
    status, text = run(tmp_path)
    assert status == 2
    count = len(odd_images.REFUSED)
    head = f"error: {count} of {count + 10} image files below {tmp_path}/pictures cannot be used: remove or repair them"
    said = text.splitlines()
    assert said[-count - 1] == head  # before it libtiff may have its say
    named = {line.partition(": ")[0].rpartition("/")[2].rstrip("'") for line in said[-count:]}
    assert named == {name.replace("\n", "\\n") for name in odd_images.REFUSED}
    assert not (tmp_path / "out").exists()
    fault("bad image files, named before training", tried=count, survived=count, lost="nothing")


@pytest.mark.parametrize("storage", ["disk", "ram", "lazy"])
def test_every_storage_shows_the_same(storage: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    for name, write in odd_images.HANDLED.items():
        write(tmp_path / "pictures" / "train" / "cat" / name)
    source = Folder(root=tmp_path / "pictures", image_size=SIDE)
    content = Storage(kind=storage, cache_dir=tmp_path / "cache", num_workers=0).keep(source.load())
    names = [Path(name).name for name in content.image_ids["labelled"]]
    for name in odd_images.HANDLED:
        shown = content.labelled.images.read(np.array([names.index(name)]))[0].transpose(1, 2, 0).astype(int)
        assert np.abs(shown - odd_images.expected(name)).max() <= 1, name


@pytest.mark.parametrize("storage", ["lazy", "disk"])
def test_a_process_that_is_killed_while_it_decodes_is_one_line(storage: str, tmp_path: Path, fault: Fault) -> None:
    """As the system does when the images of several processes fill the memory."""
    odd_images.write_wide_png(tmp_path / "0.png")
    for number in range(1, 500):  # it takes seconds to decode them all
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    images = FileImages(sorted(tmp_path.glob("*.png")), size=224)
    content = SourceData(("cat", "dog"), ImageSet(images, np.arange(500) % 2), None, None)

    def kill_one() -> None:
        while not active_children():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(active_children()[0].pid or 0, SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(RunError, match=r"^a process that reads images [^\n]*ended[^\n]*$"):
        Storage(kind=storage, cache_dir=tmp_path / "cache", num_workers=2).keep(content)
    killer.join()
    assert not list((tmp_path / "cache").glob("*x*.npy"))
    assert not unfinished_in(tmp_path / "cache")
    fault(f"a process killed while it decodes for storage={storage}", tried=1, survived=1, lost="the images it had")
