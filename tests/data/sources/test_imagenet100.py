from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.stand_ins import write_imagenet100

from layermatch import UserError
from layermatch.data.sources import ImageNet100


@pytest.fixture(name="root", scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_imagenet100(root)
    return root


def test_only_the_listed_classes_are_read(root: Path) -> None:
    data = ImageNet100(root=root, class_list=root / "classes.txt", image_size=24).load()
    listed = (root / "classes.txt").read_text().split()
    assert data.classes == tuple(sorted(listed))
    assert listed != sorted(listed)  # the order of the file does not matter
    assert len(list((root / "train").iterdir())) == 101
    assert data.test is not None
    assert data.labelled.labels.tolist() == np.repeat(np.arange(100), 2).tolist()
    assert data.test.labels.tolist() == list(range(100))
    assert data.image_id("labelled", 3) == f"train/{data.classes[1]}/00001.JPEG"
    assert data.image_id("test", 99) == f"val/{data.classes[99]}/00000.JPEG"
    assert data.labelled.images.read(np.array([0, 199])).shape == (2, 3, 24, 24)


def test_the_list_is_found_from_the_root_and_from_the_working_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(ImageNet100(root=root, class_list="classes.txt").load().classes) == 100
    shutil.copy(root / "classes.txt", tmp_path / "mine.txt")
    assert len(ImageNet100(root=root, class_list="mine.txt").load().classes) == 100


def changed(change: Callable[[list[str]], list[str]]) -> Callable[[list[str]], bytes]:
    return lambda lines: "\n".join(change(lines)).encode()


WRONG_LISTS: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "99 classes": (changed(lambda lines: lines[1:]), "has 99 lines, 99 of them different"),
    "101 classes": (changed(lambda lines: [*lines, "n01441464"]), "has 101 lines, 101 of them different"),
    "one twice": (changed(lambda lines: [*lines[1:], lines[5]]), "has 100 lines, 99 of them different"),
    "a name": (changed(lambda lines: ["tench", *lines[1:]]), "has the line 'tench'"),
    "a path": (changed(lambda lines: [*lines[1:], "../n01440764"]), r"has the line '\.\./n01440764'"),
    "binary": (lambda lines: b"\xff\xfe\x00", "cannot be read"),
    "empty": (lambda lines: b"", "has 0 lines"),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
def test_wrong_lists_are_refused_and_explained(root: Path, tmp_path: Path, case: str) -> None:
    write, message = WRONG_LISTS[case]
    path = tmp_path / "list.txt"
    path.write_bytes(write((root / "classes.txt").read_text().split()))
    with pytest.raises(UserError, match=rf"class_list='.*list\.txt' {message}.*one WordNet id") as error:
        ImageNet100(root=root, class_list=path).load()
    assert "\n" not in str(error.value)


def test_blank_lines_and_windows_line_ends_do_not_matter(root: Path, tmp_path: Path) -> None:
    lines = (root / "classes.txt").read_text().split()
    (tmp_path / "list.txt").write_bytes(b"\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    assert len(ImageNet100(root=root, class_list=tmp_path / "list.txt").load().classes) == 100


def test_a_missing_list_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"class_list='no\.txt' is not a file, nor is .*no\.txt: a class list is"):
        ImageNet100(root=root, class_list="no.txt").load()


@pytest.mark.parametrize("part", ["train", "val"])
def test_missing_class_folders_are_named(root: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(root, tmp_path / "copy")
    classes = sorted((root / "classes.txt").read_text().split())
    for name in classes[10:17]:
        shutil.rmtree(tmp_path / "copy" / part / name)
    names = ", ".join(classes[10:15])
    message = rf"{part} has no folder for 7 of the 100 classes: {names} and 2 more; .*a class list is"
    with pytest.raises(UserError, match=message):
        ImageNet100(root=tmp_path / "copy", class_list="classes.txt").load()


def test_an_empty_class_is_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    name = (root / "classes.txt").read_text().split()[0]
    for path in (tmp_path / "copy" / "val" / name).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=f"val has no images for the classes {name}"):
        ImageNet100(root=tmp_path / "copy", class_list="classes.txt").load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"root": "x", "class_list": None},
            r"class_list=null is not legal: give the path of a file: a class list",
        ),
        ({"root": "x", "class_list": "c", "image_size": -1}, r"image_size=-1 is not legal"),
        ({"root": 3, "class_list": "c"}, r"root=3 is not legal"),
    ],
)
def test_wrong_settings_are_refused_before_the_disk_is_touched(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageNet100(**settings)  # type: ignore[arg-type]


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root='.*nowhere' is not a folder: give a folder that holds train/<WordNet"):
        ImageNet100(root=tmp_path / "nowhere", class_list="c").load()
