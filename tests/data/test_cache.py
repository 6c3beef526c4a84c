"""What is kept between runs: caches go when they are out of date, and whole files are not checked twice."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data import odd_images, stand_ins

from layermatch.data.file_images import FileImages
from layermatch.data.sources import Folder, ImageSet, SourceData
from layermatch.data.storage import Storage
from layermatch.errors import UserError
from layermatch.files import unfinished_in, unfinished_of

SIZE = 12


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    stand_ins.write_folder(root, classes=("cat", "dog"), per_class=5, test_per_class=2, size=SIZE)
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def keep(root: Path, cache: Path, kind: str = "disk", size: int = SIZE) -> SourceData:
    return Storage(kind=kind, cache_dir=cache, num_workers=0).keep(Folder(root=root, image_size=size).load())


def caches(folder: Path) -> set[str]:
    """Names up to the fingerprint: how many images of which shape; every cache has its record."""
    found = sorted(folder.glob("*x*.npy"))
    assert sorted(folder.glob("*x*.json")) == [path.with_suffix(".json") for path in found]
    assert len({path.name.rpartition("-")[0] for path in found}) == len(found)
    return {path.name.rpartition("-")[0] for path in found}


def recolour(path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (1, 2, 3)).save(path)


# --------------------------------------------------------------------------------------------------------- old caches


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda root: recolour(root / "train" / "cat" / "00002.png"), "10-3x12x12"),
    "deleted": (lambda root: (root / "train" / "cat" / "00002.png").unlink(), "9-3x12x12"),
    "added": (lambda root: recolour(root / "train" / "dog" / "new.png"), "11-3x12x12"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_cache_is_deleted_when_its_folder_has_changed(
    name: str, pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(pictures, cache)
    assert caches(cache) == {"10-3x12x12", "4-3x12x12"}
    change, now = CHANGES[name]
    change(pictures)
    capsys.readouterr()
    keep(pictures, cache)
    assert caches(cache) == {now, "4-3x12x12"}
    assert "caches of earlier states of these folders deleted" in capsys.readouterr().out


def test_another_size_is_no_earlier_state(pictures: Path, cache: Path) -> None:
    keep(pictures, cache)
    keep(pictures, cache, size=SIZE + 1)
    assert caches(cache) == {"10-3x12x12", "4-3x12x12", "10-3x13x13", "4-3x13x13"}
    recolour(pictures / "train" / "cat" / "00002.png")
    keep(pictures, cache)  # of the other size nobody will ever use the old state either
    assert caches(cache) == {"10-3x12x12", "4-3x12x12", "4-3x13x13"}


def test_other_folders_and_other_choices_from_one_folder_are_left_alone(pictures: Path, cache: Path) -> None:
    shutil.copytree(pictures, pictures.with_name("others"))
    keep(pictures.with_name("others"), cache)
    files = sorted((pictures / "train").rglob("*.png"))

    def keep_some(paths: list[Path]) -> None:
        images = FileImages(paths, size=SIZE)
        content = SourceData(("cat", "dog"), ImageSet(images, np.arange(len(paths)) % 2), None, None)
        Storage(kind="disk", cache_dir=cache).keep(content)

    keep_some(files[:6])
    keep_some(files[3:])
    assert len(list(cache.glob("*x*.npy"))) == 4
    keep_some(files)  # has all that the two have
    assert [len(list(cache.glob(f"{count}-*.npy"))) for count in (4, 6, 7, 10)] == [1, 0, 0, 2]


def test_what_is_not_ours_and_what_is_unknown_stays(pictures: Path, cache: Path) -> None:
    cache.mkdir()
    others = {
        "a-b.json": "{}",
        "c-d.json": "[1]",
        "notes.txt": "mine",
        "e-f.json": '{"folder": 1}',
        "5-3x8x8-0.npy": "x",
    }
    for name, content in others.items():
        (cache / name).write_text(content)
    keep(pictures, cache)
    assert {name: (cache / name).read_text() for name in others} == others


def test_what_stopped_runs_left_is_deleted_after_a_day(pictures: Path, cache: Path) -> None:
    cache.mkdir()
    old, new = (unfinished_of(cache / "3-1x8x8-0.npy") for _ in range(2))
    for path, age in ((old, 25 * 3600), (new, 60)):
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - age,) * 2)
    keep(pictures, cache)
    assert [path for path, _ in unfinished_in(cache)] == [new]


# -------------------------------------------------------------------------------------------------------------- checks


def checked_lines(text: str) -> list[str]:
    return [line.partition(" checked")[0] for line in text.splitlines() if "checked" in line]


def test_whole_files_are_checked_once(pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(pictures, cache, "lazy")
    assert checked_lines(capsys.readouterr().out) == ["14 image files"]
    keep(pictures, cache, "lazy", size=SIZE + 5)
    assert checked_lines(capsys.readouterr().out) == []
    recolour(pictures / "train" / "cat" / "00002.png")
    recolour(pictures / "test" / "dog" / "new.png")
    keep(pictures, cache, "lazy")
    assert checked_lines(capsys.readouterr().out) == ["2 image files"]


def test_after_a_repair_only_the_repaired_file_is_checked(
    pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = pictures / "train" / "cat" / "00002.png"
    broken.write_bytes(b"")
    for _ in range(2):  # it is not remembered as good
        with pytest.raises(UserError, match=r"\n  train/cat/00002\.png: it is empty$"):
            keep(pictures, cache, "lazy")
    capsys.readouterr()
    recolour(broken)
    keep(pictures, cache, "lazy")
    assert checked_lines(capsys.readouterr().out) == ["1 image files"]


def test_a_damaged_memory_of_the_check_is_no_memory(
    pictures: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(pictures, cache, "lazy")
    (record,) = cache.glob("checked-*")
    for content in (b"", b"x" * 300, record.read_bytes()[:-1]):
        record.write_bytes(content)
        capsys.readouterr()
        keep(pictures, cache, "lazy")
        assert checked_lines(capsys.readouterr().out) == ["14 image files"]


@pytest.mark.parametrize("kind", ["lazy", "auto"])
def test_a_check_that_cannot_be_remembered_is_made(
    kind: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")  # nobody can write below it, not even root
    cache = tmp_path / "file" / "cache"
    keep(pictures, cache, kind)
    assert "image files are checked at each start, as" in capsys.readouterr().out.replace("\n", " ")
    (pictures / "train" / "cat" / "00002.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"\n  train/cat/00002\.png: it is empty$"):
        keep(pictures, cache, kind)


# ---------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("kind", ["lazy", "disk", "ram"])
def test_every_bad_file_of_every_part_is_in_one_list(kind: str, pictures: Path, cache: Path) -> None:
    expected = []
    for number, (name, (write, reason)) in enumerate(odd_images.REFUSED.items()):
        part = ("train/cat", "test/dog")[number % 2]
        write(pictures / part / name)
        if name.isprintable():
            expected.append(f"  {part}/{name}: {reason}")
    with pytest.raises(UserError) as caught:
        keep(pictures, cache, kind)
    head, *lines = str(caught.value).splitlines()
    assert head == f"19 of 33 image files below {pictures} cannot be used: remove or repair them"
    assert len(lines) == 19
    assert all(any(line.startswith(start) for line in lines) for start in expected)
    assert "  'test/dog/line\\nbreak.png': it is empty" in lines
    assert not list(cache.glob("*x*.npy"))


def test_a_long_list_is_cut_and_kept_in_a_file(pictures: Path, cache: Path) -> None:
    for number in range(30):
        (pictures / "train" / "cat" / f"bad{number:02}.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        keep(pictures, cache, "lazy")
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("30 of 44 image files below")
    assert lines[:20] == [f"  train/cat/bad{number:02}.png: it is empty" for number in range(20)]
    assert lines[20:] == [f"  and 10 more, all of them in {cache}/unreadable-images.txt"]
    kept = (cache / "unreadable-images.txt").read_text().splitlines()
    assert kept == [f"{pictures}/train/cat/bad{number:02}.png: it is empty" for number in range(30)]
