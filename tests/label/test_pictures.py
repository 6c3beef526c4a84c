"""The pictures below a folder: none that is hidden, outside or no picture, and no file is opened for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layermatch.errors import UserError
from layermatch.label.pictures import find_pictures


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no picture, and nobody looks")
    return path


def test_what_is_shown_and_what_is_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in (
        "b.JPG", "a.png", "deep/er/c.webp", "notes.txt", "no_ending", ".hidden.jpg", "._a.png", ".cache/d.jpg",
        "@eaDir/a.png", "labels.runs/2026/figures/views.png",
    ):  # fmt: skip
        touch(root / name)
    touch(root / os.fsdecode(b"caf\xe9.jpg"))
    found = find_pictures(root, leave_out=root / "labels.runs")
    assert found.paths == ("a.png", "b.JPG", "deep/er/c.webp")
    assert found.left_out == {
        "no picture by its ending": 2, "hidden": 1, "a system's folder": 1, "a name that is not UTF-8": 1,
    }  # fmt: skip


def test_runs_of_any_table_that_was_labelled_here_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "second.csv", "second.runs/now/curves.png", "in/x.csv", "in/x.runs/y.png", "my.runs/b.png"):
        touch(tmp_path / name)
    assert find_pictures(tmp_path, leave_out=tmp_path / "labels.runs").paths == ("a.png", "my.runs/b.png")


def test_links_lead_out_only_where_that_is_allowed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-beside"
    inside = touch(root / "a" / "1.jpg")
    secret = touch(outside / "secret.jpg")
    (root / "file.jpg").symlink_to(secret)
    (root / "folder").symlink_to(outside)
    (root / "within.jpg").symlink_to(inside)
    (root / "a" / "loop").symlink_to(root)
    found = find_pictures(root)
    assert found.paths == ("a/1.jpg", "within.jpg")
    assert found.left_out == {"a link that leads outside": 2}
    assert find_pictures(root, links=True).paths == ("a/1.jpg", "file.jpg", "folder/secret.jpg", "within.jpg")


def test_a_picture_that_became_a_link_outside_is_not_served(tmp_path: Path) -> None:
    root = tmp_path / "root"
    secret = touch(tmp_path / "secret.jpg")
    touch(root / "a.jpg")
    touch(root / "folder" / "b.jpg")
    found = find_pictures(root)
    assert [found.file_of(number) is not None for number in (0, 1)] == [True, True]
    (root / "a.jpg").unlink()
    (root / "a.jpg").symlink_to(secret)
    (root / "folder").rename(tmp_path / "moved")
    (root / "folder").symlink_to(tmp_path / "moved")
    assert [found.file_of(number) for number in (0, 1)] == [None, None]


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "root" / "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    found = find_pictures(tmp_path / "link")
    assert found.root == tmp_path / "root"
    assert found.file_of(0) == str(tmp_path / "root" / "a.jpg")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot list .*: No such file or directory"):
        find_pictures(tmp_path / "no")
