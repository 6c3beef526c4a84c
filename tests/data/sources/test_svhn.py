"""SVHN from a stand-in in MATLAB files, compared with what was written and with torchvision's reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from tests.data.stand_ins import write_mat, write_svhn
from torchvision import datasets

from layermatch import UserError
from layermatch.data.sources import SVHN


class UncheckedSVHN(datasets.SVHN):  # type: ignore[misc]
    """torchvision's own reader, without its checksums."""

    def _check_integrity(self) -> bool:
        return True


@pytest.mark.parametrize("extra", [True, False])
def test_files_are_read_as_written(tmp_path: Path, extra: bool) -> None:
    written = write_svhn(tmp_path)
    data = SVHN(root=tmp_path, verify=False, extra=extra).load()
    assert data.test is not None
    assert data.unlabelled is None
    pool = [written["train"], written["extra"]] if extra else [written["train"]]
    for part, expected in ((data.labelled, pool), (data.test, [written["test"]])):
        images = np.concatenate([images for images, _ in expected])
        np.testing.assert_array_equal(part.images.read(np.arange(len(part))), images)
        np.testing.assert_array_equal(part.labels, np.concatenate([labels for _, labels in expected]))
    assert data.classes == tuple("0123456789")


def test_torchvisions_reader_agrees(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    test = SVHN(root=tmp_path, verify=False).load().test
    theirs = UncheckedSVHN(tmp_path, split="test")
    assert test is not None
    np.testing.assert_array_equal(test.images.read(np.arange(len(test))), theirs.data)
    np.testing.assert_array_equal(test.labels, theirs.labels)


def test_the_extra_file_is_not_needed_without_extra(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    (tmp_path / "extra_32x32.mat").unlink()
    assert len(SVHN(root=tmp_path, verify=False, extra=False).load().labelled) == 40
    with pytest.raises(UserError, match=r"SVHN: extra_32x32\.mat not found in .*: they come from .*download=true"):
        SVHN(root=tmp_path, verify=False).load()


def test_torchvisions_checksums_refuse_the_stand_in(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    with pytest.raises(UserError, match=r"train_32x32\.mat is not the published file.*verify=false skips"):
        SVHN(root=tmp_path).load()


IMAGES = np.zeros((32, 32, 3, 4), np.uint8)
WRONG_CONTENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"X": IMAGES}, r"cannot be read \('y'\): give a MATLAB file with X and y"),
    "floats": ({"X": IMAGES / 1.0, "y": [1, 2, 3, 4]}, "has X .*float64 and 4 labels"),
    "other order": ({"X": IMAGES.transpose(3, 0, 1, 2), "y": [1, 2, 3, 4]}, r"has X \(4, 32, 32, 3\) uint8"),
    "too few labels": ({"X": IMAGES, "y": [1, 2, 3]}, "and 3 labels"),
    "halves": (
        {"X": IMAGES, "y": [1.0, 2.0, 3.0, 4.5]},
        r"give X \(32, 32, 3, N\) uint8 and N whole numbers",
    ),
    "label 0": (
        {"X": IMAGES, "y": [0, 1, 2, 3]},
        "labels from 0 to 3 are not legal: give labels from 1 to 10",
    ),
    "label 11": ({"X": IMAGES, "y": [1, 2, 3, 11]}, "labels from 1 to 11 are not legal"),
}


@pytest.mark.parametrize("case", WRONG_CONTENTS)
def test_wrong_contents_are_named(tmp_path: Path, case: str) -> None:
    content, message = WRONG_CONTENTS[case]
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", content)
    with pytest.raises(UserError, match=rf"SVHN: .*test_32x32\.mat.*{message}"):
        SVHN(root=tmp_path, verify=False).load()


def test_files_cut_off_anywhere_are_named(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    whole = path.read_bytes()
    places = [*range(0, 300, 7), *np.linspace(300, len(whole) - 1, 30, dtype=int)]
    for keep in places:
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"SVHN: .*train_32x32\.mat cannot be read \(.+\)") as error:
            SVHN(root=tmp_path, verify=False).load()
        assert "\n" not in str(error.value)


def test_one_image_keeps_its_axes(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 1), dtype=np.uint8)
    write_mat(tmp_path / "test_32x32.mat", image, np.array([10]))
    # MATLAB's own writer keeps the last axis of length 1 in four-dimensional arrays, and so does scipy's.
    test = SVHN(root=tmp_path, verify=False).load().test
    assert test is not None
    np.testing.assert_array_equal(test.images.read(np.array([0]))[0], image[..., 0].transpose(2, 0, 1))
    assert test.labels.tolist() == [0]


def test_extra_must_be_a_bool() -> None:
    with pytest.raises(UserError, match=r"extra='no' is not legal: choose true or false"):
        SVHN(root="x", extra="no")  # type: ignore[arg-type]
