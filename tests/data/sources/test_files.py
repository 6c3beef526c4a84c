"""Images are known by what is in them; what is not used is counted, and never silently dropped."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features
from tests.data.stand_ins import write_folder

from layermatch import UserError
from layermatch.checkpoints import check_fits
from layermatch.data.sources import Folder, ImageFolder
from layermatch.data.sources.files import Unused, find_images

PICTURE = Image.new("RGB", (8, 8), (200, 40, 40))
CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
CAFE_IN_PARTS = unicodedata.normalize("NFD", CAFE)


def save(path: Path, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.save(path, kind)


def write_bytes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


#: File name to kind of content. None of the names says that it is an image, or of which kind.
PICTURES = {
    "jpeg.jfif": "JPEG",
    "jpeg.JPE": "JPEG",
    "png": "PNG",
    "hash0123": "JPEG",
    "gif.dat": "GIF",
    "bmp.bin": "BMP",
    "tiff.1": "TIFF",
    "webp.jpg_large": "WEBP",
    "ppm.x": "PPM",
    "qoi.qoi": "QOI",
    "ico.x": "ICO",
} | {f"{kind.lower()}.x": kind for kind, what in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")) if features.check(what)}

#: File name to content, and the kind that it is counted as. Some begin like an image.
OTHERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "notes.txt": (write_bytes(b"BM is how it begins"), ".txt"),
    "P5": (write_bytes(b"P5 is how it begins"), "without an ending"),
    "P6": (write_bytes(b"P6\n3 three"), "without an ending"),
    "photo.HEIC": (write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)), ".heic"),
    "empty": (write_bytes(b""), "without an ending"),
    "archive.zip": (write_bytes(b"PK\x03\x04" + bytes(64)), ".zip"),
    "Thumbs.db": (write_bytes(b"\xd0\xcf\x11\xe0" + bytes(64)), ".db"),
    "pipe": (os.mkfifo, "without an ending"),
    "link_to_nothing": (lambda path: path.symlink_to("nowhere"), "without an ending"),
    "vector.eps": (lambda path: PICTURE.save(path, "EPS"), ".eps"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_read_is_an_image_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    for k in ("cat", "dog"):
        save(tmp_path / "train" / k / name, PICTURES[name])
    data = Folder(root=tmp_path, image_size=8).load()
    assert data.image_ids["labelled"] == (f"train/cat/{name}", f"train/dog/{name}")
    assert data.notes == {}
    red = data.labelled.images.read(data.labelled.labels)[:, 0]
    assert (abs(red.astype(int) - 200) < 12).all()


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_counted_by_kind(name: str, tmp_path: Path) -> None:
    write, kind = OTHERS[name]
    write(tmp_path / name)
    found = find_images(tmp_path)
    assert (found.images, found.unused) == ([], [(name, kind)])


def test_a_damaged_picture_of_any_name_is_not_dropped(tmp_path: Path) -> None:
    """Whoever put it there meant it to be one: it is named with the other bad files before training."""
    save(tmp_path / "whole", "PNG")
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "header").write_bytes(raw[:14])
    (tmp_path / "text.jfif").write_text("<html>404</html>")
    assert find_images(tmp_path).images == ["cut", "header", "text.jfif", "whole"]


def test_what_is_not_used_is_in_the_notes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for name in ("loose.png", "loose", "list.csv"):
        save(tmp_path / "train" / name)
    (tmp_path / "train" / "list.csv").write_text("a,b")
    for number in range(4):
        (tmp_path / "test" / "cat" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    save(tmp_path / "train" / "dog" / ".hidden.png")
    for of_a_system in (".DS_Store", "._00000.png"):
        (tmp_path / "train" / "dog" / of_a_system).write_bytes(b"\0")
    save(tmp_path / "dev" / "cat" / "1.png")
    save(tmp_path / "beside.png")
    (tmp_path / "README").write_text("read me")
    data = Folder(root=tmp_path).load()
    assert len(data.labelled) == 18
    text = data.notes["not used"]
    kinds, _, names = text.rpartition(": ")
    assert set(kinds.split(", ")) == {
        ".heic (4)", "outside a class (3)", ".csv (1)", "hidden (1)", "folder (1)", "without an ending (1)",
    }  # fmt: skip
    assert names == "train/dog/.hidden.png, train/list.csv, train/loose and 8 more"


def test_image_folder_says_which_of_two_test_sets_it_does_not_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save(tmp_path / "val" / "cat" / "1.png")
    assert ImageFolder(root=tmp_path, image_size=8).load().notes == {"not used": "folder (1): val/"}


def test_other_kinds_in_an_unlabelled_tree_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, layout="labeled", num_unlabelled=5, test_per_class=0)
    (tmp_path / "unlabeled" / "deep").mkdir()
    (tmp_path / "unlabeled" / "deep" / "a.heic").write_bytes(b"")
    assert Folder(root=tmp_path).load().notes == {"not used": ".heic (1): unlabeled/deep/a.heic"}


@pytest.mark.parametrize("name", ["@eaDir", ".thumbnails", "#recycle", "__MACOSX", "$RECYCLE.BIN"])
def test_folders_of_thumbnails_hold_no_pictures_and_are_no_classes(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = Folder(root=tmp_path).load()
    for place in ("", "train", "train/cat", "test/dog"):
        save(tmp_path / place / name / "thumb.jpg", "JPEG")
    data = Folder(root=tmp_path).load()
    assert (data.classes, data.image_ids) == (before.classes, before.image_ids)
    assert data.notes.get("not used", "").startswith("" if name.startswith(".") else "system folder (4): ")


def test_a_class_of_other_kinds_alone_says_what_is_there(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for path in (tmp_path / "train" / "dog").iterdir():
        path.unlink()
    (tmp_path / "train" / "dog" / "1.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(UserError, match=r"classes dog: .*; not used there: \.heic \(1\): train/dog/1"):
        Folder(root=tmp_path).load()


# -------------------------------------------------------------------------------------------------------- class names


@pytest.mark.parametrize(("train", "test"), [(CAFE, CAFE_IN_PARTS), (CAFE_IN_PARTS, CAFE)])
def test_a_name_in_two_unicode_forms_is_one_class(train: str, test: str, tmp_path: Path) -> None:
    for number in range(2):
        for place in (f"train/{train}", "train/tea", f"test/{test}", "test/tea"):
            save(tmp_path / place / f"{number}.png")
    data = Folder(root=tmp_path, image_size=8).load()
    assert data.classes == (CAFE, "tea")
    assert data.image_ids["labelled"][0] == f"train/{train}/0.png"
    assert data.image_ids["test"][0] == f"test/{test}/0.png"
    assert data.labelled.images.read(data.labelled.labels).shape == (4, 3, 8, 8)
    assert data.notes["class names"].startswith(f"{CAFE} is one class, though train/ and test/ write it in different")


def test_a_copy_on_another_system_has_the_same_classes(tmp_path: Path) -> None:
    """Some systems take names apart: the checkpoint of a run fits there too, also one that keeps such names."""
    for name in (CAFE_IN_PARTS, "cafz"):
        save(tmp_path / "train" / name / "1.png")
    data = Folder(root=tmp_path, image_size=8).load()
    assert data.classes == tuple(sorted([CAFE, "cafz"]))
    assert data.notes == {}
    stored = {"layermatch": {"classes": ["cafz", CAFE_IN_PARTS]}, "state_dict": {}}
    check_fits(stored, {}, classes=data.classes, path="a.ckpt")


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in (CAFE, CAFE_IN_PARTS, "tea"):
        save(tmp_path / "train" / name / "1.png")
    if len(list((tmp_path / "train").iterdir())) < 3:
        pytest.skip("this file system takes both for one")
    with pytest.raises(UserError, match=r"two folders with the name caf.*differ in Unicode form alone") as error:
        Folder(root=tmp_path).load()
    assert "'caf\\xe9'" in str(error.value)
    assert "'cafe\\u0301'" in str(error.value)


@pytest.mark.parametrize(
    ("train", "test"), [("Ant", "ant"), ("ant", "ant "), ("ant", "an\N{ZERO WIDTH SPACE}t"), ("ant 1", "ant1")]
)
def test_names_that_look_alike_are_said_to_differ(train: str, test: str, tmp_path: Path) -> None:
    for place in (f"train/{train}", "train/bee", f"test/{test}", "test/bee"):
        save(tmp_path / place / "1.png")
    with pytest.raises(UserError, match="only in upper and lower case, spaces or characters that look alike") as error:
        Folder(root=tmp_path).load()
    assert f"{train!a} and {test!a}" in str(error.value)


def test_figures_of_runs_that_were_trained_from_the_labelling_page_are_no_pictures(tmp_path: Path) -> None:
    for place in ("1.png", "labels.runs/2026-01-01_00-00-00/figures/curves.png", "others.runs/2.png"):
        save(tmp_path / place)
    (tmp_path / "labels.csv").write_text("path,label,split\n1.png,ant,\n")
    found = find_images(tmp_path)
    assert found.images == ["1.png", "others.runs/2.png"]
    assert Unused("labels.runs/", "runs of the labelling page") in found.unused
