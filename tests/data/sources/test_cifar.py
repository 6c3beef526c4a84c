"""CIFAR from stand-ins pickled as Python 2 did, compared with what was written and with torchvision."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stand_ins import (
    CIFAR10_CLASSES,
    write_cifar10,
    write_cifar100,
    write_cifar_batch,
    write_pickle,
)
from torchvision import datasets

from layermatch import UserError
from layermatch.data.sources import CIFAR10, CIFAR100


class UncheckedCIFAR10(datasets.CIFAR10):  # type: ignore[misc]
    """torchvision's own reader, without its checksums."""

    def _check_integrity(self) -> bool:
        return True

    def _load_meta(self) -> None:
        pass


class UncheckedCIFAR100(datasets.CIFAR100, UncheckedCIFAR10):  # type: ignore[misc]
    pass


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "cifar10": (write_cifar10, CIFAR10, UncheckedCIFAR10),
    "cifar100": (write_cifar100, CIFAR100, UncheckedCIFAR100),
}


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_read_as_written_and_as_torchvision_reads_them(tmp_path: Path, kind: str) -> None:
    write, source, reader = KINDS[kind]
    written = write(tmp_path)
    data = source(root=tmp_path, verify=False).load()
    assert data.unlabelled is None
    for part, name in ((data.labelled, "train"), (data.test, "test")):
        images, labels = written[name]
        read = part.images.read(np.arange(len(part)))
        np.testing.assert_array_equal(read, images)
        np.testing.assert_array_equal(part.labels, labels)
        theirs = reader(tmp_path, train=name == "train")
        np.testing.assert_array_equal(read.transpose(0, 2, 3, 1), theirs.data)
        assert part.labels.tolist() == theirs.targets


def test_class_names_are_read(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    write_cifar100(tmp_path)
    assert CIFAR10(root=tmp_path, verify=False).load().classes == CIFAR10_CLASSES
    assert CIFAR100(root=tmp_path, verify=False).load().classes[98:] == ("fine98", "fine99")


def test_batches_pickled_by_todays_numpy_are_read(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)["test"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
        (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content, protocol))
        test = CIFAR10(root=tmp_path, verify=False).load().test
        assert test is not None
        np.testing.assert_array_equal(test.images.read(np.arange(len(test))), images)


@pytest.mark.parametrize(("kind", "file"), [("cifar10", "data_batch_1"), ("cifar100", "train")])
def test_torchvisions_checksums_refuse_the_stand_in(tmp_path: Path, kind: str, file: str) -> None:
    write, source, _ = KINDS[kind]
    write(tmp_path)
    with pytest.raises(UserError, match=rf"{file} is not the published file.*verify=false skips"):
        source(root=tmp_path).load()


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(
        UserError, match=r"CIFAR-100: meta not found in .*cifar-100-python: they come from .*cifar-100-"
    ):
        CIFAR100(root=tmp_path, verify=False).load()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def test_an_unverified_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(UserError, match=r"data_batch_3 cannot be read \(it holds posix\.system\)"):
        CIFAR10(root=tmp_path, verify=False).load()
    assert not (tmp_path / "evil").exists()


IMAGES = np.zeros((2, 3, 32, 32), np.uint8)
WRONG_CONTENTS: dict[str, tuple[str, Any, str]] = {
    "a list": ("data_batch_2", [1, 2], "data_batch_2 holds a list"),
    "no data": ("data_batch_2", {"labels": [1]}, "data_batch_2 is not a batch"),
    "no labels": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1)},
        "test_batch is not a batch: .* uint8 and N 'labels'",
    ),
    "too few labels": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1), "labels": [1]},
        "test_batch is not a batch",
    ),
    "labels in words": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1), "labels": ["a", "b"]},
        "test_batch is not a batch",
    ),
    "floats": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1) / 1.0, "labels": [1, 2]},
        "test_batch is not a batch",
    ),
    "other size": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1)[:, 1:], "labels": [1, 2]},
        "test_batch is not a batch",
    ),
    "label 10": (
        "test_batch",
        {"data": IMAGES.reshape(2, -1), "labels": [0, 10]},
        r"test_batch: labels from 0 to 10 are not legal: give labels from 0 to 9",
    ),
    "nine names": ("batches.meta", {"label_names": ["a"] * 9}, r"batches\.meta does not name 10 classes"),
    "no names": ("batches.meta", {}, r"batches\.meta does not name 10 classes"),
}


@pytest.mark.parametrize("case", WRONG_CONTENTS)
def test_wrong_contents_are_named(tmp_path: Path, case: str) -> None:
    file, content, message = WRONG_CONTENTS[case]
    write_cifar10(tmp_path)
    write_pickle(tmp_path / "cifar-10-batches-py" / file, content)
    with pytest.raises(UserError, match=message):
        CIFAR10(root=tmp_path, verify=False).load()


def test_files_cut_off_anywhere_are_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_5"
    whole = path.read_bytes()
    for keep in np.linspace(0, len(whole) - 1, 60, dtype=int):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"CIFAR-10: .*data_batch_5 cannot be read \(.+\)") as error:
            CIFAR10(root=tmp_path, verify=False).load()
        assert "\n" not in str(error.value)


def test_coarse_labels_are_not_taken_for_fine_ones(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    write_cifar_batch(tmp_path / "cifar-100-python" / "test", IMAGES, coarse_labels=[1, 2])
    with pytest.raises(UserError, match=r"test is not a batch: .* N 'fine_labels'"):
        CIFAR100(root=tmp_path, verify=False).load()
