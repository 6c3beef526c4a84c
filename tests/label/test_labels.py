"""Labels in a manifest: on the disk when they are taken, and nobody else's are lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.room import room_for

from layermatch.data.manifest import IGNORED, Row, read_manifest, write_manifest
from layermatch.errors import UserError
from layermatch.files import unfinished_in, unfinished_of
from layermatch.label.labels import Given, Labels, LabelsError, lock_labels

PATHS = ("a.jpg", "b, c.jpg", "d\r\n\"e\".jpg", "z/ä.jpg", " f\rg\t.jpg")  # fmt: skip


def said(manifest: Path) -> dict[str, tuple[str, str]]:
    return {row.path: (row.label, row.split) for row in read_manifest(manifest)}


def test_an_answer_is_in_the_file_and_no_file_is_made_before(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    assert list(tmp_path.iterdir()) == []
    labels.answer("w", {"b, c.jpg": Given("cat"), "z/ä.jpg": Given("", IGNORED)})
    assert said(manifest) == {
        "a.jpg": ("", "train"), "b, c.jpg": ("cat", "train"), PATHS[2]: ("", "train"), "z/ä.jpg": ("", "ignored"),
        PATHS[4]: ("", "train"),
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]
    assert Labels(manifest, PATHS).all_given() == labels.all_given()


def test_the_file_is_the_one_that_write_manifest_writes(tmp_path: Path) -> None:
    manifest, again = tmp_path / "labels.csv", tmp_path / "again.csv"
    rows = [Row("a.jpg", "cat", "test", {"who": "me, you", "when": ""}), Row("gone.jpg", "dog", "val", {"who": "x"})]
    write_manifest(manifest, rows)
    manifest.chmod(0o640)
    labels = Labels(manifest, PATHS)
    labels.answer("w", {"a.jpg": Given("dog", "test")})
    write_manifest(again, read_manifest(manifest))
    assert manifest.read_bytes() == again.read_bytes()
    assert manifest.stat().st_mode & 0o777 == 0o640
    first, gone, *_ = read_manifest(manifest)
    assert (first.label, first.split, first.others) == ("dog", "test", {"who": "me, you", "when": ""})
    assert (gone.path, gone.label, gone.split, gone.others["who"]) == ("gone.jpg", "dog", "val", "x")


def test_undo_goes_back_to_the_start_for_each_window_alone(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    for name in ("cat", "dog", "emu"):
        labels.answer("one", {"a.jpg": Given(name)})
    labels.answer("two", {"b, c.jpg": Given("dog"), "z/ä.jpg": Given("dog")})
    for expected in ("dog", "cat", ""):
        step = labels.undo("one")
        assert step is not None
        assert said(manifest)["a.jpg"][0] == expected
    assert labels.undo("one") is None
    assert said(manifest)["b, c.jpg"][0] == "dog"
    assert labels.undo("two") is not None
    assert {label for label, _ in said(manifest).values()} == {""}


def test_of_all_windows_the_oldest_answers_are_forgotten_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermatch.label.labels.MOST_REMEMBERED", 3)
    labels = Labels(tmp_path / "labels.csv", PATHS)
    labels.answer("one", {"a.jpg": Given("cat")})
    labels.answer("two", {"b, c.jpg": Given("cat")})
    labels.answer("one", {"a.jpg": Given("dog")})
    labels.answer("two", {"b, c.jpg": Given("dog")})  # and the first one is forgotten
    assert [labels.undo("one") is not None for _ in range(2)] == [True, False]
    assert [labels.undo("two") is not None for _ in range(3)] == [True, True, False]
    labels.answer("one", {"a.jpg": Given("emu")})
    labels.answer("two", dict.fromkeys(PATHS, Given("owl")))  # more than that, and can be taken back all the same
    assert labels.undo("one") is None
    assert labels.undo("two") is not None
    assert labels.given("a.jpg") == Given("emu")


def test_an_answer_to_what_is_no_longer_shown_is_not_taken(tmp_path: Path) -> None:
    labels = Labels(tmp_path / "labels.csv", PATHS)
    shown = {path: labels.given(path) for path in PATHS[:2]}
    labels.answer("one", {"a.jpg": Given("cat")}, seen=shown)
    left = labels.answer("two", {path: Given("dog") for path in PATHS[:2]}, seen=shown)
    assert left == ["a.jpg"]
    assert labels.given("a.jpg") == Given("cat")
    assert labels.given("b, c.jpg") == Given("dog")
    labels.answer("one", {"b, c.jpg": Given("emu")})
    assert labels.undo("two") is not None  # what another window said since stays
    assert labels.given("b, c.jpg") == Given("emu")


def test_what_somebody_edits_is_noticed_and_kept(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    labels.answer("w", {"a.jpg": Given("cat")})
    before = labels.revision
    text = manifest.read_bytes().decode().replace("z/ä.jpg,,train", "z/ä.jpg,owl,val").replace("a.jpg,cat,train\n", "")
    manifest.write_bytes((text + "new.jpg,cow,test\n").encode())
    labels.answer("w", {"b, c.jpg": Given("dog")})
    assert said(manifest) == {
        "b, c.jpg": ("dog", "train"), PATHS[2]: ("", "train"), "z/ä.jpg": ("owl", "val"), "new.jpg": ("cow", "test"),
        "a.jpg": ("", "train"), PATHS[4]: ("", "train"),
    }  # fmt: skip
    assert labels.revision > before
    assert labels.classes == ("cat", "cow", "owl", "dog")  # keys stay what they were
    manifest.write_bytes(manifest.read_bytes().replace(b"cow", b"bee"))
    labels.look()
    assert labels.notice == "labels.csv was changed outside: 1 rows are others, as it says"


def test_a_broken_edit_is_not_overwritten(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    labels.answer("w", {"a.jpg": Given("cat")})
    good, broken = manifest.read_text(), "path,label,split\na.jpg,cat\n"
    manifest.write_text(broken)
    for act in (lambda: labels.answer("w", {"a.jpg": Given("dog")}), lambda: labels.undo("w"), labels.look):
        with pytest.raises(LabelsError, match=r"line 2: it has 2 cells and the header 3: .*: repair it; nothing is"):
            act()
    assert manifest.read_text() == broken
    manifest.write_text(good)
    assert labels.undo("w") is not None
    assert said(manifest)["a.jpg"] == ("", "train")


def test_a_file_that_is_gone_is_written_again_with_every_label(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    labels.answer("w", {"a.jpg": Given("cat")})
    manifest.unlink()
    labels.look()
    assert labels.notice == "labels.csv is gone: the next answer writes it again, with every label"
    labels.answer("w", {"b, c.jpg": Given("dog")})
    assert {label for label, _ in said(manifest).values()} == {"cat", "dog", ""}


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS)
    labels.answer("w", {"a.jpg": Given("cat")})
    written, revision = manifest.read_bytes(), labels.revision
    for act in (lambda: labels.answer("w", {"a.jpg": Given("dog")}), lambda: labels.undo("w")):
        with (
            room_for(len(written) // 2),
            pytest.raises(LabelsError, match=r"labels\.csv cannot be written: File too large: nothing has changed"),
        ):
            act()
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]
    assert manifest.read_bytes() == written
    assert labels.given("a.jpg") == Given("cat")
    assert labels.revision == revision
    labels.answer("w", {"b, c.jpg": Given("dog")})
    assert said(manifest)["a.jpg"] == ("cat", "train")  # and not the answer that was refused
    assert labels.undo("w") is not None
    assert labels.undo("w") is not None
    assert said(manifest)["a.jpg"] == ("", "train")


def test_classes_keep_their_order_over_a_start(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    labels = Labels(manifest, PATHS, classes=("dog", "cat"))
    assert labels.add_class("  zebra ") == "zebra"
    assert labels.add_class("cafe\N{COMBINING ACUTE ACCENT}") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    labels.answer("w", {"a.jpg": Given("cat")})
    again = Labels(manifest, PATHS)
    assert again.classes == ("dog", "cat", "zebra", "café")
    assert json.loads((tmp_path / "labels.classes.json").read_text()) == ["dog", "cat", "zebra", "café"]
    with pytest.raises(LabelsError, match="there is a class cat already"):
        again.add_class("cat")
    with pytest.raises(LabelsError, match=r"'Cat' and 'cat' differ only in upper and lower case, .*: take the one"):
        again.add_class("Cat")
    with pytest.raises(UserError, match=r"^classes: 'Cat' and 'cat' differ only in .*: give classes=\[\.\.\., cat\]$"):
        Labels(manifest, PATHS, classes=("Cat",))
    for name in ("", " ", "a\nb", "x" * 201, None, "\N{RIGHT-TO-LEFT OVERRIDE}"):
        with pytest.raises(LabelsError, match="is not legal: give a name of 1 to 200 characters on one line"):
            again.add_class(name)  # type: ignore[arg-type]
    (tmp_path / "labels.classes.json").write_text("{")  # it is only the order of keys
    assert Labels(manifest, PATHS).classes == ("cat",)


def test_only_one_server_labels_into_a_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    with lock_labels(manifest):
        second = lock_labels(manifest)
        with pytest.raises(UserError, match="is being labelled by another server: use its page, or end it"), second:
            pass
    with lock_labels(manifest):
        (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"), lock_labels(tmp_path / "file" / "labels.csv"):
        pass


def test_what_a_killed_server_was_writing_is_taken_away_by_the_next(tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    for name in ("labels.csv", "labels.classes.json"):
        unfinished_of(tmp_path / name).touch()
    other = unfinished_of(tmp_path / "other.csv")
    other.touch()
    with lock_labels(manifest):
        assert {path.name for path in tmp_path.iterdir()} == {other.name, ".labels.csv.lock"}


def test_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="labels are written to a CSV file: give one"):
        Labels(tmp_path / "labels.parquet", PATHS)


#: Answers until it is killed, and says each once it is taken.
ENDLESS = """
import sys
from pathlib import Path
from layermatch.label.labels import Given, Labels
paths = [f"{number}.jpg" for number in range(2000)]
labels = Labels(Path(sys.argv[1]), paths)
for number in range(10**9):
    labels.answer("w", {paths[number % 2000]: Given(f"class{number}")})
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 23])
def test_a_server_that_is_killed_loses_no_answer(after: int, tmp_path: Path) -> None:
    manifest = tmp_path / "labels.csv"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(manifest)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = -1
    for _ in range(after):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = re.findall(r"\d+\n", process.stdout.read())
    process.wait()
    last = max([last, *map(int, rest)])
    found = said(manifest)
    assert len(found) == 2000
    labels = [found[f"{number}.jpg"][0] for number in range(last + 1)]
    assert labels == [f"class{number}" for number in range(last + 1)]
    beyond = [label for label, _ in list(found.values())[last + 1 :] if label]
    assert beyond in ([], [f"class{last + 1}"])  # one may have been written and not said
    with lock_labels(manifest):  # as the next server does: it removes what was being written
        assert not unfinished_in(tmp_path)
        again = Labels(manifest, [f"{number}.jpg" for number in range(2000)])
        again.answer("w", {"1999.jpg": Given("cat")})
    assert said(manifest)["1999.jpg"] == ("cat", "train")
    assert not unfinished_in(tmp_path)
