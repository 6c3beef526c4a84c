"""MNIST and Fashion-MNIST from stand-ins in IDX files, compared with what was written and with torchvision's reader."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.sources.test_published import web_server
from tests.data.stand_ins import Part, write_idx, write_mnist
from torchvision import datasets

from layermatch import UserError
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import MNIST, FashionMNIST, SourceData

__all__ = ["web_server"]  # a fixture

#: Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def check_content(data: SourceData, written: dict[str, Part]) -> None:
    assert data.test is not None
    assert data.unlabelled is None
    for part, name in ((data.labelled, "train"), (data.test, "t10k")):
        images, labels = written[name]
        np.testing.assert_array_equal(part.images.read(np.arange(len(part))), images)
        np.testing.assert_array_equal(part.labels, labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("in_root", [False, True])
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_files_are_read_wherever_they_lie(kind: Any, in_root: bool, suffix: str, tmp_path: Path) -> None:
    written = write_mnist(tmp_path, name="" if in_root else kind.__name__, suffix=suffix)
    check_content(kind(root=tmp_path, verify=False).load(), written)


def test_a_folder_of_some_plain_and_some_compressed_files_is_whole(tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    for path in sorted((tmp_path / "MNIST" / "raw").glob("*labels*")):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    check_content(MNIST(root=tmp_path, verify=False).load(), written)


@pytest.mark.parametrize(
    ("kind", "reader"), [(MNIST, datasets.MNIST), (FashionMNIST, datasets.FashionMNIST)], ids=["mnist", "fashion"]
)
def test_torchvisions_reader_agrees(kind: Any, reader: Any, tmp_path: Path) -> None:
    write_mnist(tmp_path, name=reader.__name__)
    data = kind(root=tmp_path, verify=False).load()
    for part, train in ((data.labelled, True), (data.test, False)):
        theirs = reader(tmp_path, train=train)
        np.testing.assert_array_equal(part.images.read(np.arange(len(part)))[:, 0], theirs.data.numpy())
        np.testing.assert_array_equal(part.labels, theirs.targets.numpy())


def test_the_classes_are_torchvisions_and_digits_by_their_numbers(tmp_path: Path) -> None:
    write_mnist(tmp_path, name="")
    assert FashionMNIST(root=tmp_path, verify=False).load().classes == tuple(datasets.FashionMNIST.classes)
    assert MNIST(root=tmp_path, verify=False).load().classes == tuple("0123456789")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_another_content_is_refused(suffix: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, suffix=suffix)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.* does not hold the published .*verify=false"):
        MNIST(root=tmp_path).load()


def test_the_sums_are_those_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other heads of gzip's files, which name a time and a file, are the same images."""
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in raw.iterdir()}  # noqa: S324
    monkeypatch.setattr(MNIST, "_sums", sums)
    assert len(MNIST(root=tmp_path).load().labelled) == 60
    for path in sorted(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=1))
        path.unlink()
    assert len(MNIST(root=tmp_path).load().labelled) == 60


def test_missing_files_are_named_with_both_places(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        UserError,
        match=r"^MNIST: t10k-labels-idx1-ubyte not found in .*MNIST/raw or in .*: they come from https://.* and "
        r"download=true fetches them$",
    ):
        MNIST(root=tmp_path).load()


def test_missing_files_are_fetched_and_those_that_are_there_are_kept(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    served, address = server
    written = write_mnist(served, name="", suffix=".gz")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in served.iterdir()}  # noqa: S324
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", sorted(sums.items()))
    root = tmp_path / "root"
    write_mnist(root, num_train=3, seed=1)
    raw = root / "MNIST" / "raw"
    kept = {path: path.read_bytes() for path in raw.iterdir() if "t10k" in path.name}
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / name).unlink()
    data = MNIST(root=root, download=True, verify=False).load()
    np.testing.assert_array_equal(data.labelled.labels, written["train"][1])
    assert {path: path.read_bytes() for path in kept} == kept
    assert sorted(path.name for path in raw.iterdir()) == sorted(name.removesuffix(".gz") for name in sums)
    assert capfd.readouterr() == ("", "")


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=r"Fashion-MNIST: train-images.*but that was tried and failed: .+") as error:
        FashionMNIST(root=tmp_path, download=True).load()
    assert "\n" not in str(error.value)


ODD = {
    "no IDX file": (b"\x89PNG....", "is no IDX file of unsigned bytes with 3 axes"),
    "floats": (b"\0\0\x0d\x03" + b"\0" * 12, "is no IDX file of unsigned bytes with 3 axes"),
    "labels": (b"\0\0\x08\x01\0\0\0\0", "is no IDX file of unsigned bytes with 3 axes"),
    "only a head": (b"\0\0\x08\x03\0\0", "is no IDX file of unsigned bytes with 3 axes"),
    "too short": (b"\0\0\x08\x03\0\0\0\x01\0\0\0\x1c\0\0\0\x1c" + b"\0" * 783, "holds 783 bytes, but says 1x28x28"),
    "too long": (b"\0\0\x08\x03\0\0\0\x01\0\0\0\x1c\0\0\0\x1c" + b"\0" * 785, "holds 785 bytes, but says 1x28x28"),
    "more than there is": (b"\0\0\x08\x03" + b"\xff" * 12, "holds 0 bytes, but says 4294967295x"),
    "another size": (b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02" + b"\0" * 4, r"has images of shape \(1, 2, 2\)"),
    "none": (b"\0\0\x08\x03\0\0\0\0\0\0\0\x1c\0\0\0\x1c", r"has images of shape \(0, 28, 28\)"),
}


@pytest.mark.parametrize("case", ODD)
def test_wrong_contents_are_named(case: str, tmp_path: Path) -> None:
    content, message = ODD[case]
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=rf"^MNIST: .*train-images-idx3-ubyte {message}"):
        MNIST(root=tmp_path, verify=False).load()


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1], "has 2 labels for 20 images"), ([10] * 20, "labels from 10 to 10 are not legal")],
)
def test_wrong_labels_are_named(labels: list[int], message: str, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.array(labels, np.uint8))
    with pytest.raises(UserError, match=rf"^MNIST: .*t10k-labels-idx1-ubyte.*{message}"):
        MNIST(root=tmp_path, verify=False).load()


def test_compressed_files_cut_off_anywhere_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, suffix=".gz")
    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for keep in range(len(whole)):
        path.write_bytes(whole[:keep])
        with pytest.raises(UserError, match=r"^MNIST: .*t10k-labels-idx1-ubyte\.gz") as error:
            MNIST(root=tmp_path, verify=False).load()
        assert "\n" not in str(error.value)


def test_long_tails_and_unseen_classes_go_with_it(tmp_path: Path) -> None:
    write_mnist(tmp_path, num_train=200)
    data = SemiSupervisedData(
        MNIST(root=tmp_path, verify=False), batch_size=4, mu=2, mean=(0.1,), std=(0.3,), open_set=["8", "9"],
        imbalance={"labelled": 4, "labelled_head": 8},
    )  # fmt: skip
    data.setup()
    assert np.bincount(data.labelled.labels).tolist() == [8, 6, 5, 4, 3, 2, 2, 2]
    assert data.batch_of_step(0).unlabelled.views["strong"].shape == (8, 1, 28, 28)
    assert len(data.content.unlabelled) == 40


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"Debian's package dataset-fashion-mnist is not installed in {DEBIAN}")
def test_debians_package_holds_the_published_images() -> None:
    data = FashionMNIST(root=DEBIAN).load()
    assert (len(data.labelled), len(data.test)) == (60_000, 10_000)
    assert np.bincount(data.labelled.labels).tolist() == [6000] * 10
