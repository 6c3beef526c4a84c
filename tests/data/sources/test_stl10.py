"""STL-10 from a stand-in in the real binary layout, compared with what was written and torchvision."""

from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.data.stand_ins import STL10_CLASSES, stl10_bytes, write_stl10
from torchvision import datasets

from layermatch import UserError
from layermatch.data.sources import STL10, SourceData


@pytest.fixture(name="root")
def stand_in(tmp_path: Path) -> Path:
    write_stl10(tmp_path)
    return tmp_path


def load(root: Path) -> SourceData:
    return STL10(root=root, verify=False).load()


class UncheckedSTL10(datasets.STL10):  # type: ignore[misc]
    """torchvision's own reader, without its checksums."""

    def _check_integrity(self) -> bool:
        return True


def test_the_stand_in_has_the_real_layout(root: Path) -> None:
    data = load(root)
    assert data.unlabelled is not None
    assert data.test is not None
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (50, 100, 30)
    assert data.labelled.images.shape == (3, 96, 96)
    assert data.classes == STL10_CLASSES
    assert set(data.unlabelled.labels.tolist()) == {-1}
    assert set(data.labelled.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("split", ["train", "unlabeled", "test"])
def test_every_part_agrees_with_torchvisions_reader(root: Path, split: str) -> None:
    theirs = UncheckedSTL10(root, split=split)
    part = load(root).parts()[{"train": "labelled", "unlabeled": "unlabelled", "test": "test"}[split]]
    np.testing.assert_array_equal(part.images.read(np.arange(len(part))), theirs.data)
    np.testing.assert_array_equal(part.labels, theirs.labels)


@pytest.mark.parametrize("fold", [0, 9])
def test_folds_agree_with_torchvisions_reader(root: Path, fold: int) -> None:
    theirs = UncheckedSTL10(root, split="train", folds=fold)
    data = load(root)
    assert len(data.folds) == 10
    np.testing.assert_array_equal(data.labelled.images.read(data.folds[fold]), theirs.data)
    np.testing.assert_array_equal(data.labelled.labels[data.folds[fold]], theirs.labels)


def test_orientation_pixel_by_pixel(root: Path) -> None:
    # Red counts rows, green counts columns, blue is one corner: every flip or transpose changes it.
    image = np.zeros((3, 96, 96), np.uint8)
    image[0] = np.arange(96)[:, None]
    image[1] = np.arange(96)[None, :]
    image[2, 0, 95] = 255
    # By hand from the format's description: byte k of a plane is row k % 96 of column k // 96.
    by_hand = bytes(int(image[c, k % 96, k // 96]) for c in range(3) for k in range(96 * 96))
    assert by_hand == stl10_bytes(image[None])
    with (root / "stl10_binary" / "unlabeled_X.bin").open("r+b") as file:
        file.seek(7 * 27648)
        file.write(by_hand)
    unlabelled = load(root).unlabelled
    assert unlabelled is not None
    np.testing.assert_array_equal(unlabelled.images.read(np.array([7]))[0], image)


def test_100000_images_are_mapped_not_loaded(root: Path) -> None:
    path = root / "stl10_binary" / "unlabeled_X.bin"
    os.truncate(path, 100_000 * 27648)  # a sparse file: 2.8 GB long, but next to nothing on disk
    tracemalloc.start()
    unlabelled = load(root).unlabelled
    assert unlabelled is not None
    last = unlabelled.images.read(np.array([99_999, 0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(unlabelled) == 100_000
    assert not last[0].any()
    assert last[1].any()
    assert peak < 20e6


def test_worker_processes_get_the_file_not_the_pixels(root: Path) -> None:
    images = load(root).labelled.images
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    received = pickle.loads(sent)  # noqa: S301
    np.testing.assert_array_equal(received.read(np.array([3])), images.read(np.array([3])))


def test_torchvisions_checksums_refuse_the_stand_in(root: Path) -> None:
    with pytest.raises(UserError, match=r"train_X\.bin is not the published file.*verify=false skips"):
        STL10(root=root).load()


def test_torchvisions_checksums_accept_files_that_match(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "stl10_binary"

    def with_sums(names: list[str]) -> list[list[str]]:
        return [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name in names]  # noqa: S324

    monkeypatch.setattr(datasets.STL10, "train_list", with_sums(["train_X.bin", "train_y.bin", "unlabeled_X.bin"]))
    monkeypatch.setattr(datasets.STL10, "test_list", with_sums(["test_X.bin", "test_y.bin"]))
    assert len(STL10(root=root).load().labelled) == 50
    with (folder / "test_y.bin").open("r+b") as file:
        file.write(b"\x05\x05\x05\x05")
    with pytest.raises(UserError, match=r"test_y\.bin is not the published file"):
        STL10(root=root).load()


def test_loading_changes_no_file(root: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(root.rglob("*.*"))}
    images = load(root).labelled.images
    images.read(np.arange(3))[:] = 0
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(root.rglob("*.*"))}
    assert before == after


def test_missing_files_are_named_with_where_they_come_from(root: Path) -> None:
    for name in ("test_X.bin", "class_names.txt"):
        (root / "stl10_binary" / name).unlink()
    with pytest.raises(UserError) as error:
        load(root)
    message = str(error.value)
    assert message.startswith(f"STL-10: test_X.bin, class_names.txt not found in {root / 'stl10_binary'}: ")
    assert datasets.STL10.url in message
    assert "download=true" in message


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root='.*nowhere' is not a folder: .*download=true") as error:
        load(tmp_path / "nowhere")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "nowhere").exists()


WRONG_FILES = {
    "half an image": (
        "unlabeled_X.bin",
        b"\0" * (27648 + 9),
        r"unlabeled_X\.bin has 27657 bytes: give .* 27648",
    ),
    "no image": ("unlabeled_X.bin", b"", r"unlabeled_X\.bin has 0 bytes"),
    "too few labels": ("train_y.bin", bytes([1, 2]), r"train_y\.bin has 2 labels for 50 images"),
    "label 0": ("train_y.bin", bytes([0] + [1] * 49), r"train_y\.bin: labels from 0 to 1 .* from 1 to 10"),
    "label 11": ("test_y.bin", bytes([1] * 29 + [11]), r"test_y\.bin: labels from 1 to 11 .* from 1 to 10"),
    "nine names": ("class_names.txt", b"a\n" * 9, r"class_names\.txt has 9 class names: give 10"),
    "names in binary": ("class_names.txt", b"\xff\xfe", r"class_names\.txt is not a text file"),
    "fold outside": ("fold_indices.txt", b"1 2 50\n", r"fold_indices\.txt is not legal: .* from 0 to 49"),
    "fold with words": ("fold_indices.txt", b"1 two\n", r"fold_indices\.txt is not legal"),
    "fold below 0": ("fold_indices.txt", b"1 -1\n", r"fold_indices\.txt is not legal"),
    "no fold": ("fold_indices.txt", b"\n", r"fold_indices\.txt is not legal"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_named(root: Path, case: str) -> None:
    name, content, message = WRONG_FILES[case]
    (root / "stl10_binary" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"root": None}, r"root=null is not legal"),
        ({"root": "x", "download": "yes"}, r"download='yes' is not legal: choose true or false"),
        ({"root": "x", "verify": 1}, r"verify=1 is not legal: choose true or false"),
    ],
)
def test_wrong_settings_are_refused_before_the_disk_is_touched(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        STL10(**settings)  # type: ignore[arg-type]
