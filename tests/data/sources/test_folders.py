"""Folders of real image files: layouts, classes, order, links, and all the ways to be wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.data.stand_ins import write_folder

from layermatch import UserError
from layermatch.data.sources import Folder, ImageFolder, SourceData
from layermatch.data.sources.files import find_images


def save_image(path: Path, *, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (20, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def read_with_pillow(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.asarray(Image.open(path).convert(mode))
    return pixels


def test_the_train_layout(tmp_path: Path) -> None:
    write_folder(tmp_path)
    data = Folder(root=tmp_path, image_size=40).load()
    assert data.classes == ("cat", "dog", "fox")
    assert data.labelled.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert data.unlabelled is None
    assert data.test is not None
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.image_id("labelled", 7) == "train/dog/00001.png"
    assert data.image_id("test", 5) == "test/fox/00001.png"
    for part, name in ((data.labelled, "labelled"), (data.test, "test")):
        for index in range(len(part)):
            expected = read_with_pillow(tmp_path / data.image_id(name, index))
            np.testing.assert_array_equal(part.images.read(np.array([index]))[0].transpose(1, 2, 0), expected)


def test_the_labeled_unlabeled_layout(tmp_path: Path) -> None:
    write_folder(tmp_path, layout="labeled", num_unlabelled=5, test_per_class=0)
    save_image(tmp_path / "unlabeled" / "more" / "deeper" / "a.jpg")
    data = Folder(root=tmp_path).load()
    assert data.unlabelled is not None
    assert data.unlabelled.labels.tolist() == [-1] * 6
    assert data.image_ids["unlabelled"][4:] == ("unlabeled/00004.png", "unlabeled/more/deeper/a.jpg")
    assert data.image_ids["labelled"][0] == "labeled/cat/00000.png"
    assert data.test is None
    assert data.unlabelled.images.read(np.arange(6)).shape == (6, 3, 32, 32)


def test_images_of_different_sizes_and_modes(tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "RGBA", "P", "RGB")):
        save_image(tmp_path / "train" / "a" / f"{number}.png", seed=number, mode=mode, size=(30 + number, 24))
        save_image(tmp_path / "train" / "b" / f"{number}.png", seed=number, mode=mode, size=(16, 16))
    data = Folder(root=tmp_path, image_size=16, channels=1).load()
    images = data.labelled.images.read(np.arange(8))
    assert images.shape == (8, 1, 16, 16)
    for number in range(4):
        expected = read_with_pillow(tmp_path / "train" / "b" / f"{number}.png", "L")
        np.testing.assert_array_equal(images[4 + number, 0], expected)


@pytest.mark.parametrize("name", ["test", "val"])
def test_image_folder_tests_on_test_or_val(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / name)
    data = ImageFolder(root=tmp_path, image_size=16).load()
    assert data.image_ids["test"][0] == f"{name}/cat/00000.png"


def test_image_folder_prefers_test_to_val(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    save_image(tmp_path / "val" / "cat" / "more.png")
    test = ImageFolder(root=tmp_path, image_size=16).load().test
    assert test is not None
    assert len(test) == 6


def test_image_folder_without_a_test_set(tmp_path: Path) -> None:
    write_folder(tmp_path, test_per_class=0)
    assert ImageFolder(root=tmp_path, image_size=16, channels=1).load().test is None


def test_what_counts_as_an_image(tmp_path: Path) -> None:
    for name in (
        "B.JPG",
        "a.jpeg",
        "sub/c.PnG",
        "sub/deep/d.tiff",
        "e.webp",
        "f.bmp",
        "g.pgm",
        "h.gif",
        ".hidden.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("notes.txt", "png", "h.png.txt", ".cache/i.png", "._j.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path).images == [
        "B.JPG",
        "a.jpeg",
        "e.webp",
        "f.bmp",
        "g.pgm",
        "h.gif",
        "sub/c.PnG",
        "sub/deep/d.tiff",
    ]


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save_image(tmp_path / "train" / ".checkpoints" / "1.png")
    assert Folder(root=tmp_path).load().classes == ("cat", "dog", "fox")


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere" / "cats" / "1.png")
    save_image(tmp_path / "train" / "dog" / "1.png")
    (tmp_path / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cats")
    (tmp_path / "train" / "dog" / "2.png").symlink_to(tmp_path / "elsewhere" / "cats" / "1.png")
    (tmp_path / "train" / "dog" / "self").symlink_to(tmp_path / "train" / "dog")
    (tmp_path / "train" / "dog" / "up").symlink_to(tmp_path / "train")
    save_image(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "elsewhere" / "cats" / "up_by_place").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "cats" / "up_by_name").symlink_to(tmp_path / "train")
    save_image(tmp_path / "aside" / "1.png")
    (tmp_path / "train" / "dog" / "more").symlink_to(tmp_path / "aside")
    data = Folder(root=tmp_path, image_size=8).load()
    assert data.image_ids["labelled"] == (
        "train/cat/1.png",
        "train/dog/1.png",
        "train/dog/2.png",
        "train/dog/more/1.png",
    )


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in np.random.default_rng(0).permutation(200)]
    for name in names:
        (tmp_path / name).touch()
    assert find_images(tmp_path).images == sorted(names)


def test_nothing_is_decoded_by_load(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "broken.png").write_text("no image")
    (tmp_path / "train" / "cat" / "lost.png").symlink_to("nowhere.png")
    data = Folder(root=tmp_path).load()
    with pytest.raises(UserError, match=r"cannot read the image .*train/dog/broken\.png"):
        data.labelled.images.read(np.array([2]))
    with pytest.raises(UserError, match=r"cannot read the image .*train/cat/lost\.png: No such file"):
        data.labelled.images.read(np.array([1]))


def test_60000_files_are_listed_in_about_a_second(tmp_path: Path) -> None:
    # One class folder and nine links to it: as many files to list, but a tenth to create.
    first = tmp_path / "train" / "0"
    first.mkdir(parents=True)
    for number in range(6000):
        (first / f"{number:05}.png").touch()
    for label in range(1, 10):
        (tmp_path / "train" / str(label)).symlink_to(first)
    start = time.process_time()  # not the clock on the wall: other processes may keep the machine busy
    data = Folder(root=tmp_path).load()
    seconds = time.process_time() - start
    assert len(data.labelled) == 60_000
    assert seconds < 5  # 0.2 s on an idle machine


def load_folder(root: Path) -> SourceData:
    return Folder(root=root).load()


def load_image_folder(root: Path) -> SourceData:
    return ImageFolder(root=root, image_size=32).load()


def remove(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return change


def empty(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            for path in (root / name).rglob("*.png"):
                path.unlink()

    return change


def add_classes(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            save_image(root / name / "1.png")

    return change


EITHER = "give a folder that holds either train/<class>/ or labeled/<class>/ and unlabeled/"
WRONG_FOLDERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no layout": ("train", remove("train"), rf"root='.*' holds test/: {EITHER}"),
    "nothing": ("train", remove("train", "test"), f"holds neither train/ nor labeled/ and unlabeled/: {EITHER}"),
    "both layouts": (
        "labeled",
        add_classes("train/cat"),
        f"holds labeled/, test/, train/, unlabeled/: {EITHER}",
    ),
    "no unlabeled": ("labeled", remove("unlabeled"), f"holds labeled/, test/: {EITHER}"),
    "no class": (
        "train",
        remove("train/cat", "train/dog", "train/fox"),
        "train has no class folders: give a folder",
    ),
    "one class": (
        "train",
        remove("train/cat", "train/dog"),
        r"train has one class folder \(fox\): .* at least 2 classes",
    ),
    "empty class": ("train", empty("train/dog"), r"train has no images for the classes dog: .*\.jpg"),
    "no images": ("train", empty("train"), r"train has no images: give every class at least one image file"),
    "empty test class": ("train", empty("test/fox"), "test has no images for the classes fox"),
    "empty unlabeled": (
        "labeled",
        empty("unlabeled"),
        "unlabeled has no images: give at least one image file",
    ),
    "missing test class": (
        "train",
        remove("test/dog"),
        r"the class folders of train/ and test/ in .* differ: only train/ has dog$",
    ),
    "other test classes": (
        "labeled",
        add_classes("test/owl", "labeled/bat", *(f"test/x{k}" for k in range(9))),
        "only labeled/ has bat; only test/ has owl, x0, x1, x2, x3 and 5 more",
    ),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_wrong_folders_are_named(tmp_path: Path, case: str) -> None:
    layout, change, message = WRONG_FOLDERS[case]
    write_folder(tmp_path, layout=layout)
    change(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_folder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["one class", "empty class", "no images", "missing test class"])
def test_image_folder_refuses_the_same(tmp_path: Path, case: str) -> None:
    layout, change, message = WRONG_FOLDERS[case]
    write_folder(tmp_path, layout=layout)
    change(tmp_path)
    with pytest.raises(UserError, match=message):
        load_image_folder(tmp_path)


def test_image_folder_needs_train(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(UserError, match=r"cannot list .*train: No such file or directory"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("load", [load_folder, load_image_folder])
def test_a_missing_root_is_named(tmp_path: Path, load: Callable[[Path], SourceData]) -> None:
    with pytest.raises(UserError, match=r"root='.*nowhere' is not a folder: give a folder that holds .*train/"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": ""}, r"root='' is not legal"),
        ({"root": "x", "image_size": 0}, r"image_size=0 is not legal: give a whole number, at least 1"),
        ({"root": "x", "channels": 2}, r"channels=2 is not legal: choose 1 \(grey\) or 3 \(RGB\)"),
    ],
)
def test_wrong_settings_are_refused_before_the_disk_is_touched(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Folder(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        ImageFolder(**({"image_size": 8} | settings))  # type: ignore[arg-type]
