"""Where images are kept: the same batches everywhere, caches that are used again, and clear refusals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from tests.data import stand_ins
from torch import Tensor

from layermatch.augment import StrongView, WeakView
from layermatch.data import Batch, SemiSupervisedData, Views
from layermatch.data.cache import default_cache_dir
from layermatch.data.device_pool import free_memory
from layermatch.data.file_images import FileImages
from layermatch.data.images import ArrayImages, ConcatImages, image_bytes, replace_leaves, take
from layermatch.data.sources import STL10, Digits, Folder, ImageSet, Source, SourceData
from layermatch.data.steps import RawBatch
from layermatch.data.storage import AUTO_CACHE_BYTES, STORAGES, Storage, reads_files
from layermatch.errors import UserError
from layermatch.training import SemiSupervisedModule

SIZE = 12


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """40 labelled and 60 unlabelled pictures, and 20 to test on, larger than what they are decoded to."""
    root = tmp_path / "pictures"
    stand_ins.write_folder(
        root,
        layout="labeled",
        classes=("cat", "dog"),
        per_class=20,
        num_unlabelled=60,
        test_per_class=10,
        size=SIZE + 8,
    )
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def folder(root: Path) -> Folder:
    return Folder(root=root, image_size=SIZE)


def data_of(source: Source, storage: str, cache: Path | None = None, **changes: Any) -> SemiSupervisedData:
    channels = source.load().labelled.images.shape[0]
    options: dict[str, Any] = {"num_labels": 20, "num_val": 4, "batch_size": 4, "mu": 3, "seed": 0} | changes
    return SemiSupervisedData(
        source, weak=WeakView(), strong=StrongView(), mean=(0.5,) * channels, std=(0.25,) * channels,
        storage=storage, cache_dir=cache, **options,
    )  # fmt: skip


def ready(source: Source, storage: str, cache: Path | None = None, **changes: Any) -> SemiSupervisedData:
    data = data_of(source, storage, cache, **changes)
    data.setup()
    return data


def loaded(data: SemiSupervisedData, count: int) -> list[Batch]:
    """What an algorithm would get from the loader on the CPU."""
    raw = list(islice(data.train_dataloader(), count))
    assert all(isinstance(batch, RawBatch) for batch in raw)
    return [data.on_after_batch_transfer(batch, 0) for batch in raw]


def tensors(batch: Batch) -> list[Tensor]:
    parts = [batch.labelled] if batch.unlabelled is None else [batch.labelled, batch.unlabelled]
    return [tensor for part in parts for tensor in (*part.views.values(), *part[1:])]


def assert_equal(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def everything(images: ImageSet | None) -> Any:
    assert images is not None
    return images.images.read(np.arange(len(images)))


# ------------------------------------------------------------------------------------------------------ same batches


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("storage", STORAGES)
def test_pictures_give_the_same_batches_from_every_storage(
    storage: str, num_workers: int, pictures: Path, cache: Path
) -> None:
    plain = ready(folder(pictures), "lazy", num_workers=0)
    expected = [plain.batch_of_step(step) for step in range(5)]
    data = ready(folder(pictures), storage, cache, num_workers=num_workers)
    assert_equal(loaded(data, 5), expected)
    assert_equal([data.batch_of_step(step) for step in range(5)], expected)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(everything(getattr(data, part)), everything(getattr(plain, part)))
    assert data.content.image_ids == plain.content.image_ids


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("use_unlabelled", [True, False])
def test_stl10_gives_the_same_batches_from_every_storage(storage: str, use_unlabelled: bool, tmp_path: Path) -> None:
    stand_ins.write_stl10(tmp_path, num_labelled=60, num_unlabelled=40)
    views = Views(unlabelled={"weak": "weak", "strong": "strong"} if use_unlabelled else {})
    changes = {"val_from": "labelled", "num_val": 10, "views": views}
    source = STL10(root=tmp_path, verify=False)
    plain, data = ready(source, "lazy", **changes), ready(source, storage, tmp_path / "cache", **changes)
    assert_equal(loaded(data, 3), [plain.batch_of_step(step) for step in range(3)])
    assert not (tmp_path / "cache").exists()
    leaf = data.content.test
    assert leaf is not None
    assert isinstance(leaf.images, ArrayImages)
    assert leaf.images.is_on_disk == (storage != "ram")


@pytest.mark.parametrize("storage", STORAGES)
def test_digits_give_the_same_batches_from_every_storage(storage: str, cache: Path) -> None:
    plain, data = ready(Digits(), "lazy"), ready(Digits(), storage, cache)
    assert_equal(loaded(data, 3), [plain.batch_of_step(step) for step in range(3)])
    assert not cache.exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_its_own_images_from_the_device(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ready(Digits(), "ram", batch_size=8).batch_of_step(3)
    data = ready(Digits(), "device", batch_size=4)
    # What a Trainer of two processes would say.
    monkeypatch.setattr(SemiSupervisedData, "_rank_and_world", (rank, 2))
    raw = data.training_steps(read_images=False)[3]
    assert raw.labelled.images.shape == (0, 1, 8, 8)
    batch = data.on_after_batch_transfer(raw, 0)
    half = slice(4 * rank, 4 * rank + 4)
    assert torch.equal(batch.labelled.views["weak"], alone.labelled.views["weak"][half])
    assert batch.unlabelled is not None
    assert alone.unlabelled is not None
    whole = alone.unlabelled.views["strong"]
    assert torch.equal(batch.unlabelled.views["strong"], whole[12 * rank : 12 * rank + 12])


def test_training_from_the_device_ends_with_the_same_weights(
    make_data: Callable[..., SemiSupervisedData],
    make_algorithm: Callable[..., SemiSupervisedModule],
    train: Callable[..., Trainer],
    tmp_path: Path,
) -> None:
    states = []
    for storage in ("ram", "device"):
        data = make_data(storage=storage)
        algorithm = make_algorithm(data)
        train(algorithm, data, tmp_path, max_steps=3, eval_every=2)
        states.append(algorithm.state_dict())
    first, second = states
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_device_gets_the_pool_once_and_batches_carry_positions_only(pictures: Path, cache: Path) -> None:
    data = ready(folder(pictures), "device", cache)
    for raw in islice(data.train_dataloader(), 2):
        assert len(raw.labelled.images) == len(raw.unlabelled.images) == 0
        data.on_after_batch_transfer(raw, 0)
    pool = data._device_pool
    assert pool is not None
    assert pool.images.dtype == torch.uint8
    assert pool.images.shape == (len(data.unlabelled), 3, SIZE, SIZE)
    raw = next(iter(data.train_dataloader()))
    data.on_after_batch_transfer(raw, 0)
    assert data._device_pool is pool


def test_a_set_that_is_used_twice_is_kept_once(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), np.uint8)
    stored.tofile(tmp_path / "images.bin")
    mapped = ArrayImages(np.memmap(tmp_path / "images.bin", np.uint8, mode="r", shape=stored.shape))
    both = ConcatImages([take(mapped, np.array([1, 0])), take(mapped, np.array([3, 2, 5, 4]))])
    content = SourceData(("cat", "dog"), ImageSet(both, np.arange(6) % 2), None, ImageSet(mapped, np.arange(6) % 2))
    kept = Storage(kind="ram").keep(content)
    assert kept.test is not None
    leaves: list[Any] = []
    replace_leaves(kept.labelled.images, lambda images: leaves.append(images) or images)
    assert [id(leaf) for leaf in leaves] == [id(kept.test.images)] * 2
    (tmp_path / "images.bin").unlink()  # nothing of it is needed any more
    np.testing.assert_array_equal(everything(kept.labelled), stored[[1, 0, 3, 2, 5, 4]])


# ------------------------------------------------------------------------------------------------------------- caches


def caches(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("checked-") and path.suffix == ".npy")


def files_of(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_file()]


def spoil_pixels(root: Path) -> None:
    """Make every picture unreadable, with the size and the time of change that it had."""
    for path in files_of(root):
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("storage", ["disk", "auto", "device", "ram"])
def test_a_second_start_opens_no_picture(storage: str, pictures: Path, cache: Path) -> None:
    before = files_of(pictures)
    expected = loaded(ready(folder(pictures), "disk", cache), 3)
    assert files_of(pictures) == before  # nothing is written into the user's folder
    written = caches(cache)
    assert [path.name.split("-")[:2] for path in written] == [[str(n), "3x12x12"] for n in (20, 40, 60)]
    stamps = [path.stat().st_mtime_ns for path in written]
    spoil_pixels(pictures)
    again = ready(folder(pictures), storage, cache)
    assert_equal(loaded(again, 3), expected)
    assert not reads_files(again.content)
    assert [path.stat().st_mtime_ns for path in caches(cache)] == stamps


def test_ram_and_lazy_write_no_pixels(pictures: Path, cache: Path) -> None:
    loaded(ready(folder(pictures), "ram", cache), 1)
    assert not cache.exists()
    loaded(ready(folder(pictures), "lazy", cache), 1)
    # What was checked, and the digests by which identical images are found.
    assert [path.stat().st_size < 4000 for path in cache.iterdir()] == [True, True]
    assert not caches(cache)


def test_a_cache_is_made_anew_when_a_picture_changes(pictures: Path, cache: Path) -> None:
    ready(folder(pictures), "disk", cache)
    changed = files_of(pictures / "labeled")[0]
    Image.new("RGB", (SIZE, SIZE), (1, 2, 3)).save(changed)
    images = ready(folder(pictures), "disk", cache).content.labelled.images
    assert (images.read(np.array([0]))[0] == np.array([1, 2, 3]).reshape(3, 1, 1)).all()
    assert len(caches(cache)) == 3  # the parts that did not change are used again, and the old one is gone


def test_a_new_picture_and_another_size_have_caches_of_their_own(pictures: Path, cache: Path) -> None:
    ready(folder(pictures), "disk", cache)
    shutil.copy(files_of(pictures / "unlabeled")[0], pictures / "unlabeled" / "zz.png")
    assert len(ready(folder(pictures), "disk", cache).unlabelled) == 40 - 4 + 61
    assert len(caches(cache)) == 3
    ready(Folder(root=pictures, image_size=SIZE + 1), "disk", cache)
    assert len(caches(cache)) == 6


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:20], lambda raw: b"", lambda raw: b"x" * 99])
def test_a_damaged_cache_is_made_anew(damage: Callable[[bytes], bytes], pictures: Path, cache: Path) -> None:
    expected = loaded(ready(folder(pictures), "disk", cache), 2)
    contents = {path: path.read_bytes() for path in caches(cache)}
    for path, raw in contents.items():
        path.write_bytes(damage(raw))
    assert_equal(loaded(ready(folder(pictures), "disk", cache), 2), expected)
    assert {path: path.read_bytes() for path in caches(cache)} == contents


@pytest.mark.parametrize("storage", ["disk", "auto", "ram", "device", "lazy"])
def test_a_broken_picture_is_named_and_leaves_no_cache(storage: str, pictures: Path, cache: Path) -> None:
    broken = files_of(pictures / "unlabeled")[30]
    broken.write_bytes(b"no picture")
    head = f"^1 of 120 image files below {pictures} cannot be used: remove or repair it\n"
    with pytest.raises(UserError, match=head + r"  unlabeled/00030\.png: it is no image of a format [^\n]+$"):
        ready(folder(pictures), storage, cache)
    assert not [path for path in (caches(cache) if cache.exists() else []) if path.name.startswith((".", "60"))]


def test_many_pictures_are_decoded_by_other_processes_and_a_broken_one_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 3, 32, 32), np.uint8)
    stand_ins.write_pngs(tmp_path / "images", pixels)
    paths = files_of(tmp_path / "images")

    def content() -> SourceData:
        return SourceData(("cat", "dog"), ImageSet(FileImages(paths, size=32), np.arange(1100) % 2), None, None)

    storage = Storage(kind="disk", cache_dir=tmp_path / "cache", num_workers=2)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    np.testing.assert_array_equal(everything(storage.keep(content()).labelled), pixels)
    assert torch.equal(torch.rand(1), expected)  # torch's own generator is left alone
    paths[800].write_bytes(b"no picture")
    for kind in ("disk", "ram", "lazy"):
        with pytest.raises(
            UserError, match=r"^1 of 1,100 image files below [^\n]*\n  00800\.png: it is no image [^\n]*$"
        ):
            Storage(kind=kind, cache_dir=tmp_path / "cache", num_workers=2).keep(content())


def test_what_is_cached_is_said_once(pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready(folder(pictures), "disk", cache)
    lines = capsys.readouterr().out.replace("\n", " ")
    assert "40 images cached in" in lines
    assert "17.3 kB" in lines
    ready(folder(pictures), "disk", cache)
    assert not capsys.readouterr().out


def test_a_terminal_shows_a_bar(
    pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    ready(folder(pictures), "disk", cache)
    assert "caching images" in capsys.readouterr().out


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "layermatch"
    for given in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert default_cache_dir() == Path.home() / ".cache" / "layermatch"


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("storage", ["poison", None, 1, True])
def test_an_unknown_storage_is_refused(storage: Any) -> None:
    with pytest.raises(UserError, match=r"^storage=.* is not legal: choose one of auto, device, ram, disk, lazy"):
        data_of(Digits(), storage)


@pytest.mark.parametrize("cache_dir", ["poison", "", 3, True])
def test_a_cache_directory_must_be_an_absolute_path(cache_dir: Any) -> None:
    with pytest.raises(UserError, match=r"^cache_dir=.* is not legal: give an absolute path"):
        data_of(Digits(), "disk", cache_dir)


def unwritable(tmp_path: Path) -> Path:
    """A folder that nobody can write to, not even root: a file is in its place."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


@pytest.mark.parametrize("storage", ["disk", "device"])
def test_a_cache_that_cannot_be_written_is_refused(storage: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the cache cannot be written to .*: give another cache_dir"):
        ready(folder(pictures), storage, unwritable(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_refused(pictures: Path, cache: Path) -> None:
    cache.mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"^the cache cannot be written to .*Permission denied"):
        ready(folder(pictures), "disk", cache)


def test_auto_does_without_a_cache_that_cannot_be_written(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ready(folder(pictures), "auto", unwritable(tmp_path))
    assert reads_files(data.content)
    assert "image files are decoded each time" in capsys.readouterr().out


def huge(pictures: Path) -> Folder:
    """Terabytes once decoded; no test decodes them."""
    return Folder(root=pictures, image_size=200_000)


NO_ROOM = {
    "device": r"storage=device needs 11\.5 TB for 96 images, but cpu has .*B free: give storage=disk",
    "ram": r"storage=ram needs 14\.4 TB for 120 images, but only .*B of memory are free: give storage=disk",
    "disk": r"the cache of 40 images needs 4\.8 TB, but .* has .*B free: give another cache_dir=FOLDER, or [^\n]*lazy",
}


@pytest.mark.parametrize("storage", NO_ROOM)
def test_what_does_not_fit_is_refused_with_what_is_needed_and_free(storage: str, pictures: Path, cache: Path) -> None:
    data = data_of(huge(pictures), storage, cache, device=torch.device("cpu"))
    with pytest.raises(UserError, match=f"^{NO_ROOM[storage]}$"):
        data.setup()
    assert not cache.exists() or not caches(cache)


def test_auto_decodes_each_time_what_would_fill_the_disk(pictures: Path, cache: Path) -> None:
    data = ready(huge(pictures), "auto", cache, num_workers=None, leaks="keep")  # no digest of images of 10 GB each
    assert reads_files(data.content)
    assert data.val_dataloader().num_workers == min(os.cpu_count() or 1, 8)
    assert not caches(cache)
    assert image_bytes(data.content.labelled.images) > AUTO_CACHE_BYTES


def test_kept_images_need_no_workers(pictures: Path, cache: Path) -> None:
    for storage in ("ram", "disk", "auto", "device"):
        assert ready(folder(pictures), storage, cache, num_workers=None).train_dataloader().num_workers == 0


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says what is free")
def test_free_memory_of_the_cpu_is_less_than_there_is() -> None:
    free = free_memory(torch.device("cpu"))
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    assert free == pytest.approx(available, rel=0.2)  # others use memory meanwhile
    assert 2**20 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is mapped")
def test_reading_a_mapped_file_maps_no_pages(tmp_path: Path) -> None:
    """60 MB are read from disk; through a map they would all count as this process's memory."""

    def mapped_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))

    with (tmp_path / "images.bin").open("wb") as file:
        file.truncate(60 * 10**6)
    images = ArrayImages(np.memmap(tmp_path / "images.bin", np.uint8, mode="r", shape=(2000, 3, 100, 100)))
    images.read(np.arange(2))
    before = mapped_bytes()
    for first in range(0, 2000, 100):
        images.read(np.arange(first, first + 100))
    assert mapped_bytes() - before < 5 * 10**6
