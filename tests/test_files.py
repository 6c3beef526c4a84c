"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.room import room_for

from layermatch.files import put_in_place, replace_text, replacing, sync_folder, unfinished_in, unfinished_of


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
        assert unfinished.parent == tmp_path
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOSPC, "no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["before", "half", "check"])
def test_what_is_raised_meanwhile_leaves_the_old_file_alone(tmp_path: Path, error: BaseException, when: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def check(unfinished: Path) -> None:
        assert unfinished.read_text() == "new"
        raise error

    def write() -> None:
        with replacing(path, check=check) as unfinished:
            if when != "before":
                unfinished.write_text("new")
            if when != "check":
                raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_text_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_text(path, "old")
    with room_for(100), pytest.raises(OSError, match="File too large") as caught:
        replace_text(path, "new" * 100)
    assert caught.value.strerror == "File too large"
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_errors_name_the_file_and_not_its_other_name(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "a.txt"
    with pytest.raises(FileNotFoundError) as caught:
        replace_text(missing, "text")
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{missing}'"
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as not_a_folder:
        replace_text(tmp_path / "file" / "a.txt", "text")
    assert not_a_folder.value.filename == str(tmp_path / "file" / "a.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_text(tmp_path / "folder", "text")
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match=r"Permission denied: '.*a\.txt'"):
            replace_text(tmp_path / "a.txt", "text")
    finally:
        tmp_path.chmod(0o755)


def test_permissions_are_kept_and_those_of_a_new_file_are_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    replace_text(tmp_path / "new", "text")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    for mode in (0o600, 0o444, 0o664):
        (tmp_path / "new").chmod(mode)
        for sync in (True, False):
            with replacing(tmp_path / "new", sync=sync) as unfinished:
                unfinished.write_text("other")
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


def test_half_of_a_character_becomes_an_escape_and_line_breaks_stay(tmp_path: Path) -> None:
    replace_text(tmp_path / "a.txt", "caf\udce9\r\né\n")
    assert (tmp_path / "a.txt").read_bytes() == b"caf\\udce9\r\n\xc3\xa9\n"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="it is not known what is synced")
def test_the_file_and_then_its_folder_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("text")
    assert synced == [unfinished, tmp_path]
    with replacing(tmp_path / "a.txt", sync=False) as unfinished:
        unfinished.write_text("other")
    assert len(synced) == 2
    assert (tmp_path / "a.txt").read_text() == "other"


@pytest.mark.parametrize(("number", "is_raised"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_only_a_disk_that_fails_is_an_error_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_raised: bool
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if is_raised:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)


def test_what_was_not_finished_is_found_with_the_name_that_it_was_to_have(tmp_path: Path) -> None:
    names = ("a.txt", "labels[1].csv", ".hidden", "two\nlines", "step-0000001.ckpt")
    paths = {unfinished_of(tmp_path / name): name for name in names}
    for path in paths:
        path.touch()
    for other in ("a.txt", "a.txt.tmp", ".a.txt.tmp", ".a.txt.0123abcg.tmp", ".0123abcd.tmp", ".a.0123abcd.tmp.bak"):
        (tmp_path / other).touch()
    assert dict(unfinished_in(tmp_path)) == paths
    assert unfinished_in(tmp_path / "missing") == []
    assert unfinished_in(tmp_path / "a.txt") == []


def test_several_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(number) * 100_000 for number in range(4)]
    threads = [threading.Thread(target=replace_text, args=(path, text)) for text in texts for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert names_in(tmp_path) == ["a.txt"]


def test_a_file_that_was_written_elsewhere_is_put_in_its_place(tmp_path: Path) -> None:
    unfinished = unfinished_of(tmp_path / "a.txt")
    unfinished.write_text("text")
    put_in_place(unfinished, tmp_path / "a.txt")
    assert names_in(tmp_path) == ["a.txt"]


def test_nothing_but_the_standard_library_is_imported() -> None:
    known = "set(sys.stdlib_module_names) | {'layermatch'}"
    code = (
        "import sys; before = set(sys.modules); import layermatch.files; "
        f"print({{name.partition('.')[0] for name in set(sys.modules) - before}} - ({known}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
