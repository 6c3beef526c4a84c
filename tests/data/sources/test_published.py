"""Downloads from a web server on this machine: torchvision's code, with our address and checksum."""

from __future__ import annotations

import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.data.stand_ins import write_cifar10, write_stl10, write_svhn
from torchvision import datasets

from layermatch import UserError
from layermatch.data.sources import CIFAR10, STL10, SVHN


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(name="server")
def web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324


def serve_stl10(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish a stand-in as if it were STL-10; returns the folder that the archive was made of."""
    served, address = server
    write_stl10(served / "made")
    archive = served / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(served / "made" / "stl10_binary", "stl10_binary")
    monkeypatch.setattr(datasets.STL10, "url", f"{address}/stl10_binary.tar.gz")
    monkeypatch.setattr(datasets.STL10, "tgz_md5", md5(archive))
    return served / "made" / "stl10_binary"


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_an_archive_is_fetched_and_extracted_quietly(
    server: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    made = serve_stl10(server, monkeypatch)
    root = tmp_path / "deep" / "root"
    data = STL10(root=root, download=True, verify=False).load()
    assert len(data.labelled) == 50
    assert files_below(root / "stl10_binary") == files_below(made)
    assert files_below(root) == [f"stl10_binary/{name}" for name in files_below(made)]
    assert capfd.readouterr() == ("", "")


def test_files_that_are_there_are_kept(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_stl10(server, monkeypatch)
    root = tmp_path / "root"
    write_stl10(root, seed=1)
    (root / "stl10_binary" / "test_X.bin").unlink()
    kept = {path: path.read_bytes() for path in (root / "stl10_binary").iterdir()}
    STL10(root=root, download=True, verify=False).load()
    assert {path: path.read_bytes() for path in kept} == kept
    assert (root / "stl10_binary" / "test_X.bin").stat().st_size == 30 * 27648


def test_nothing_is_fetched_when_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layermatch")
    write_stl10(tmp_path)
    monkeypatch.setattr(datasets.STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    assert len(STL10(root=tmp_path, download=True, verify=False).load().labelled) == 50
    assert "fetching" not in caplog.text
    (tmp_path / "stl10_binary" / "test_y.bin").unlink()
    with pytest.raises(UserError, match=r"test_y\.bin not found"):
        STL10(root=tmp_path, download=True, verify=False).load()
    assert "STL-10: fetching http://127.0.0.1:9/stl10_binary.tar.gz into" in caplog.text


def test_a_verified_download_that_does_not_match_is_refused(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_stl10(server, monkeypatch)
    with pytest.raises(UserError, match=r"train_X\.bin is not the published file"):
        STL10(root=tmp_path / "root", download=True).load()


def test_an_archive_fetched_by_hand_is_used(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = serve_stl10(server, monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    (made.parent.parent / "stl10_binary.tar.gz").rename(root / "stl10_binary.tar.gz")
    monkeypatch.setattr(datasets.STL10, "url", "http://127.0.0.1:9/stl10_binary.tar.gz")
    assert len(STL10(root=root, download=True, verify=False).load().labelled) == 50
    assert (root / "stl10_binary.tar.gz").is_file()


def test_a_damaged_archive_leaves_nothing_behind(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_stl10(server, monkeypatch)
    monkeypatch.setattr(datasets.STL10, "tgz_md5", "0" * 32)
    with pytest.raises(UserError, match=r"tried and failed: File not found or corrupted") as error:
        STL10(root=tmp_path / "root", download=True, verify=False).load()
    assert "\n" not in str(error.value)
    assert files_below(tmp_path / "root") == []


def test_an_archive_without_the_files_is_refused(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = serve_stl10(server, monkeypatch)
    archive = made.parent.parent / "stl10_binary.tar.gz"
    archive.write_bytes(b"no archive")
    monkeypatch.setattr(datasets.STL10, "tgz_md5", md5(archive))
    with pytest.raises(UserError, match=r"train_X\.bin.*tried and failed: .*gzip"):
        STL10(root=tmp_path / "root", download=True, verify=False).load()


def test_being_offline_is_told_with_the_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = "http://127.0.0.1:9/cifar-10-python.tar.gz"  # nothing listens there
    monkeypatch.setattr(datasets.CIFAR10, "url", url)
    with pytest.raises(UserError) as error:
        CIFAR10(root=tmp_path, download=True).load()
    message = str(error.value)
    assert message.startswith(
        "CIFAR-10: data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch"
    )
    assert url in message
    assert "download=true fetches them, but that was tried and failed: <urlopen error" in message
    assert "\n" not in message
    assert files_below(tmp_path) == []


def test_a_root_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"root='.*file' is not a folder: .* tried and failed: .*File exists"):
        CIFAR10(root=tmp_path / "file", download=True).load()
    assert (tmp_path / "file").read_text() == "mine"


def test_single_files_are_fetched_one_by_one(
    server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, address = server
    parts = write_svhn(served)
    sums = {
        split: [f"{address}/{split}_32x32.mat", f"{split}_32x32.mat", md5(served / f"{split}_32x32.mat")]
        for split in ("train", "extra", "test")
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", sums)
    root = tmp_path / "root"
    data = SVHN(root=root, download=True, extra=False).load()
    assert files_below(root) == ["test_32x32.mat", "train_32x32.mat"]
    np.testing.assert_array_equal(data.labelled.labels, parts["train"][1])
    assert len(SVHN(root=root, download=True).load().labelled) == 100
    assert files_below(root) == ["extra_32x32.mat", "test_32x32.mat", "train_32x32.mat"]


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cifar10(tmp_path / "data")
    assert len(CIFAR10(root="~/data", verify=False).load().labelled) == 50
