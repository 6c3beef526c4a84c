"""``python -m layermatch.predict``: what it writes, what it goes on with, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.odd_images import REFUSED
from tests.predict.conftest import TinyRun
from tests.processes import Process

from layermatch import Predictor, UserError
from layermatch.data.manifest import Row, read_manifest, write_manifest
from layermatch.prediction.gallery import Gallery
from layermatch.prediction.job import Job, Record
from layermatch.prediction.listing import list_input
from layermatch.prediction.results import Result, Table
from layermatch.prediction.sorting import FolderNames, SortedPictures, check_folder

Command = Callable[..., int]

#: Files that cannot be read, of each kind that is quickly made.
BAD = ("empty.png", "text.jpg", "cut_off.jpg", "floats.tif", "pipe.png", "link_to_nothing.png", "line\nbreak.png")


def rows_of(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pictures(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the test pictures that a test may change."""
    return Path(shutil.copytree(tiny_run.test, tmp_path / "pictures", symlinks=True))


# ------------------------------------------------------------------------------------------------------ what is written


def test_the_labels_of_an_evaluation(tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Row for row what the run's own predictions.csv says of its test set."""
    given = (f"ckpt_path={tiny_run.run_dir}", f"input={tiny_run.test}", f"root={tiny_run.root}", "device=cpu")
    assert command("predict", *given) == 0
    classes = Predictor.load(tiny_run.run_dir).class_names
    theirs = rows_of(tiny_run.run_dir / "predictions.csv")
    ours = rows_of("labels.csv")
    assert [row["path"] for row in ours] == [row["path"] for row in theirs]
    assert [row["label"] for row in ours] == [classes[int(row["prediction"])] for row in theirs]
    # Rounded to six digits; and which row of a batch an image is may turn the last bit.
    confidences = [[float(row["confidence"]) for row in rows] for rows in (ours, theirs)]
    assert confidences[0] == pytest.approx(confidences[1], rel=0, abs=1.01e-6)
    said = capsys.readouterr().out
    assert f"images │ {len(ours)}" in " ".join(said.split())
    assert sorted(path.name for path in Path().iterdir()) == ["labels.csv"]
    manifest = read_manifest("labels.csv")
    assert [(row.path, row.label, row.split) for row in manifest] == [
        (row["path"], row["label"], "train") for row in ours
    ]


def test_every_class_and_features_beside_bad_files(
    tiny_run: TinyRun, command: Command, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in BAD:
        REFUSED[name][0](pictures / "cat" / name)
    (pictures / "notes.md").write_text("no picture")
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "top_k=2", "probabilities=true")
    assert command("predict", *given, "features=f.npy", "threshold=0.9") == 3
    output = capsys.readouterr()
    total = len(rows_of(tiny_run.run_dir / "predictions.csv")) + len(BAD)
    assert output.err == (
        f"error: {len(BAD)} of {total} files cannot be read: labels.errors.csv has the reasons; the others are in "
        "labels.csv\n"
    )
    assert "not used" in output.out
    assert "notes.md" in output.out
    reasons = {row["path"]: row["reason"] for row in rows_of("labels.errors.csv")}
    assert reasons.keys() == {f"cat/{name}" for name in BAD}
    assert all(reasons[f"cat/{name}"].startswith(REFUSED[name][1]) for name in BAD)

    rows = rows_of("labels.csv")
    assert len(rows) == total - len(BAD)
    predictor = Predictor.load(tiny_run.ckpt_path, device="cpu")
    said = predictor([pictures / row["path"] for row in rows])
    columns = [f"probability:{name}" for name in predictor.class_names]
    written = np.array([[float(row[name]) for name in columns] for row in rows])
    assert np.allclose(written, said.probabilities, atol=1e-5)
    assert np.allclose(np.load("f.npy", mmap_mode="r"), said.features, atol=1e-4)
    assert any(not row["label"] for row in rows)
    for row in rows:
        ordered = sorted(((float(row[name]), name) for name in columns), reverse=True)
        assert [row["confidence"], row["confidence_2"]] == [f"{value:.6f}" for value, _ in ordered[:2]]
        is_sure = float(row["confidence"]) >= 0.9
        assert (row["label"], row["labelled_by"]) == ((row["prediction"], "prediction") if is_sure else ("", ""))


def test_parquet_holds_the_same(tiny_run: TinyRun, command: Command) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    given = (f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}", "device=cpu", "threshold=0.9")
    assert command("predict", *given) == 0
    assert command("predict", *given, "output=labels.parquet") == 0
    table = parquet.read_table("labels.parquet").to_pylist()
    rows = rows_of("labels.csv")
    assert [row["confidence"] for row in rows] == [f"{row['confidence']:.6f}" for row in table]
    assert [row | {"confidence": ""} for row in rows] == [row | {"confidence": ""} for row in table]
    assert [row.label for row in read_manifest("labels.parquet")] == [row["label"] for row in rows]


def test_parquet_keeps_few_cells_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many classes have a column: a row at least, and not all of them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("layermatch.prediction.results._MOST_CELLS", 40)
    names = [f"class {number}" for number in range(10)]
    for columns, rows in ((names, 2), (names * 9, 1)):
        table = Table(tmp_path / "labels.parquet", class_names=columns, top_k=1, probabilities=True)
        for number in range(5):
            record = Record(f"{number}.png", "", "train", (0, 0))
            probabilities = np.full(len(columns), number, np.float32)
            table.add(Result(record, classes=("class 0",), confidences=(0.5,), probabilities=probabilities))
        job = Job(tmp_path / "labels.csv", identity={}, chunk_size=1)
        job.folder.mkdir(exist_ok=True)
        table.close(job)
        file = parquet.ParquetFile(tmp_path / "labels.parquet")
        assert file.metadata.row_group(0).num_rows == rows
        assert file.read(columns=["path"]).column(0).to_pylist() == [f"{number}.png" for number in range(5)]


def test_a_manifest_keeps_its_labels(
    tiny_run: TinyRun, command: Command, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are a person's; the network's word stands beside them."""
    files = sorted(path.relative_to(pictures).as_posix() for path in pictures.glob("*/0*.png"))
    manifest = [Row(path, "cat" if number % 2 else "", "val") for number, path in enumerate(files)]
    write_manifest("own.csv", manifest)
    assert command("predict", f"ckpt_path={tiny_run.ckpt_path}", "input=own.csv", "root=pictures", "device=cpu") == 0
    rows = rows_of("labels.csv")
    assert [(row["path"], row["split"]) for row in rows] == [(row.path, "val") for row in manifest]
    right = 0
    for row, given in zip(rows, manifest, strict=True):
        assert row["label"] == (given.label or row["prediction"])
        assert row["labelled_by"] == ("manifest" if given.label else "prediction")
        right += bool(given.label) and row["prediction"] == given.label
    assert f"6, predicted {right / 6:.4%}" in capsys.readouterr().out


def test_a_list_and_one_picture(tiny_run: TinyRun, command: Command, pictures: Path) -> None:
    outside = pictures.parent / "outside.png"
    shutil.copy(pictures / "cat" / "00000.png", outside)
    twice = f"./cat/00001.png\n{pictures}/cat/00001.png\n{outside.parent}/./outside.png\n"
    Path("list.txt").write_text(f"cat/00001.png\n\n{outside}\ndog/00000.png\n{twice}")
    given = (f"ckpt_path={tiny_run.ckpt_path}", "device=cpu")
    assert command("predict", *given, "input=list.txt", "root=pictures") == 0
    assert [row["path"] for row in rows_of("labels.csv")] == ["cat/00001.png", str(outside), "dog/00000.png"]
    assert command("predict", *given, "input=outside.png", "output=one.csv") == 0
    assert [row["path"] for row in rows_of("one.csv")] == ["outside.png"]


def test_a_list_is_relative_to_its_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the working directory is below the root, and where a file of that name lies in both."""
    for name in ("images/a.jpg", "project/images/b.jpg", "images/b.jpg", "images/images/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def listed(lines: str, root: str) -> list[str]:
        Path("list.txt").write_text(lines)
        return [entry.path for entry in list_input(Path("list.txt"), Path(root)).entries]  # type: ignore[union-attr]

    monkeypatch.chdir(tmp_path / "project")
    assert listed("images/a.jpg\nimages/b.jpg\nimages/gone.jpg", "..") == [
        "images/a.jpg",
        "images/b.jpg",
        "images/gone.jpg",
    ]
    assert listed("images/a.jpg", str(tmp_path)) == ["images/a.jpg"]
    monkeypatch.chdir(tmp_path)
    assert listed("images/a.jpg\nb.jpg\nimages/c.jpg", "images") == ["a.jpg", "b.jpg", "images/c.jpg"]


def test_one_picture_is_where_the_working_directory_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images/a.jpg", "other/b.jpg", "images/other/b.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")

    def listed(given: str, root: str) -> str:
        (entry,) = list_input(Path(given), Path(root)).entries
        return entry.path

    assert listed("images/a.jpg", "images") == "a.jpg"
    assert listed("other/b.jpg", "images") == str(tmp_path / "other" / "b.jpg")
    assert listed("other/b.jpg", ".") == "other/b.jpg"


def test_every_name_that_is_text_is_read_back(
    tiny_run: TinyRun, command: Command, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is no text is said to be not used; broken files have odd names, too."""
    names = ["a\rb.png", "a\r\nb.png", "a\nb.png", 'a"b,c.png', "a\tb.png", " a.png", "ä;'.png"]
    picture = pictures / "cat" / "00000.png"
    Path("odd").mkdir()
    for name in names:
        shutil.copy(picture, Path("odd", name))
        Path("odd", f"no {name}").write_bytes(b"")
    shutil.copy(picture, Path("odd", "caf\udce9.png"))
    assert command("predict", f"ckpt_path={tiny_run.ckpt_path}", "input=odd", "device=cpu") == 3
    rows = read_manifest("labels.csv")
    assert [row.path for row in rows] == sorted(names)
    assert all(row.label for row in rows)
    assert sorted(row["path"] for row in rows_of("labels.errors.csv")) == sorted(f"no {name}" for name in names)
    assert "a name that is not UTF-8 (1)" in " ".join(capsys.readouterr().out.split())
    # What was written is an input again.
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=labels.csv", "root=odd", "device=cpu", "output=again.csv")
    assert command("predict", *given) == 0
    assert read_manifest("again.csv") == [
        Row(row.path, row.label, row.split, {**row.others, "labelled_by": "manifest"}) for row in rows
    ]


# -------------------------------------------------------------------------------------------------------- what goes on


def stopping_after(count: int) -> Callable[..., None]:
    """Writes so many chunks, and is then interrupted."""
    write, written = Job.write_chunk, []

    def stop(job: Job, number: int, arrays: Any) -> None:
        if len(written) == count:
            raise KeyboardInterrupt
        written.append(number)
        write(job, number, arrays)

    return stop


def test_stopped_work_goes_on(
    tiny_run: TinyRun,
    command: Command,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """To the same bytes, whatever is damaged of what was done; another command is refused meanwhile."""
    REFUSED["empty.png"][0](pictures / "fox" / "empty.png")
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "batch_size=5", "features={}.npy")

    def call(name: str, *more: str) -> int:
        return command("predict", *(word.format(name) for word in given), f"output={name}.csv", *more)

    assert call("whole") == 3
    with monkeypatch.context() as patch:
        patch.setattr(Job, "write_chunk", stopping_after(6))
        assert call("parts") == 75
    assert capsys.readouterr().err.endswith("stopped: what is done is kept: start the same command again to go on\n")
    assert not Path("parts.csv").exists()
    chunks = sorted(Path("parts.csv.unfinished/chunks").iterdir())
    assert len(chunks) == 6
    assert call("parts", "top_k=2") == 2
    assert "is unfinished work of another command (top_k was 1, now 2)" in capsys.readouterr().err
    chunks[0].write_bytes(chunks[0].read_bytes()[:-30])
    content = bytearray(chunks[1].read_bytes())
    content[len(content) // 2] ^= 1
    chunks[1].write_bytes(bytes(content))
    chunks[2].unlink()
    written: list[int] = []
    write = Job.write_chunk
    with monkeypatch.context() as patch:
        patch.setattr(
            Job, "write_chunk", lambda job, number, arrays: (written.append(number), write(job, number, arrays))
        )
        assert call("parts") == 3
    assert written[:3] == [0, 1, 2]
    assert not set(written) & {3, 4, 5}
    for name in ("{}.csv", "{}.errors.csv", "{}.npy"):
        assert Path(name.format("parts")).read_bytes() == Path(name.format("whole")).read_bytes()
    assert not Path("parts.csv.unfinished").exists()


def test_files_that_change_meanwhile(
    tiny_run: TinyRun,
    command: Command,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A picture that is another one now is looked at again; one that is new is not in this output, which is said."""
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "batch_size=5")
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    with monkeypatch.context() as patch:
        patch.setattr(Job, "write_chunk", stopping_after(3))
        assert command("predict", *given) == 75
    Image.new("RGB", (16, 16), "red").save(files[0])
    shutil.copy(files[1], pictures / "cat" / "new.png")
    capsys.readouterr()
    assert command("predict", *given) == 0
    assert "have changed since this work began" in capsys.readouterr().out
    rows = rows_of("labels.csv")
    assert len(rows) == len(files)
    confidence = Predictor.load(tiny_run.ckpt_path, device="cpu")([files[0]]).confidence
    assert float(rows[0]["confidence"]) == pytest.approx(float(confidence), abs=1e-4)


def test_an_output_that_was_in_its_place_when_it_was_killed(
    tiny_run: TinyRun, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}", "device=cpu", "gallery=g.html")
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("predict", *given) == 75
    before = Path("labels.csv").read_bytes()
    assert command("predict", *given) == 0
    assert Path("labels.csv").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["g.html", "labels.csv"]


@pytest.mark.slow
def test_a_killed_process_and_several_of_them(tiny_run: TinyRun, tmp_path: Path) -> None:
    """SIGKILL in the middle; then two processes with readers of their own do the rest."""
    words = [sys.executable, "-m", "layermatch.predict", f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}"]
    words += ["device=cpu", "batch_size=2"]

    def start(output: str, *more: str) -> Process:
        return Process([*words, f"output={output}", *more], cwd=tmp_path)

    process = start("killed.csv")
    chunks = tmp_path / "killed.csv.unfinished" / "chunks"
    while not (chunks.exists() and len(list(chunks.glob("*.npz"))) >= 5):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed.csv").exists()
    assert start("killed.csv", "devices=2", "num_workers=1").wait() == 0
    assert start("whole.csv").wait() == 0
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.csv", "whole.csv"]


def test_errors_of_an_earlier_attempt_are_not_left(
    tiny_run: TinyRun, command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pictures / "cat" / "00000.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu")
    with monkeypatch.context() as patch:
        patch.setattr(Job, "remove", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command("predict", *given) == 75
    assert Path("labels.errors.csv").exists()
    broken.write_bytes(whole)
    assert command("predict", *given) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["labels.csv", "pictures"]


# ------------------------------------------------------------------------------------------------------ class folders


def test_pictures_in_class_folders(tiny_run: TinyRun, command: Command, pictures: Path) -> None:
    """Nothing is overwritten, names that collide are numbered, and what is uncertain has a folder of its own."""
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "threshold=0.9")
    assert command("predict", *given, "copy_to=sorted") == 0
    rows = rows_of("labels.csv")
    copied = {path for path in Path("sorted").rglob("*") if path.is_file()}
    assert len(copied) == len(rows)
    expected: dict[str, list[bytes]] = {}
    for row in rows:
        expected.setdefault(row["label"] or "_uncertain", []).append((pictures / row["path"]).read_bytes())
    found: dict[str, list[bytes]] = {}
    for path in copied:
        found.setdefault(path.parent.name, []).append(path.read_bytes())
    assert {name: sorted(contents) for name, contents in found.items()} == {
        name: sorted(contents) for name, contents in expected.items()
    }
    assert "_uncertain" in found
    assert command("predict", *given, "link_to=linked", "output=again.csv") == 0
    links = {path for path in Path("linked").rglob("*") if path.is_symlink()}
    assert {path.readlink() for path in links} == {(pictures / row["path"]).absolute() for row in rows}


def test_a_picture_that_was_put_aside_gets_no_class(tiny_run: TinyRun, command: Command) -> None:
    """``ignored`` in a table: neither a label, nor a place in what is sorted or shown."""
    names = [str(path.relative_to(tiny_run.root)) for path in sorted(tiny_run.test.rglob("*.png"))]
    rows = [Row(name, split="ignored" if number == 1 else "train") for number, name in enumerate(names)]
    write_manifest("some.csv", rows)
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=some.csv", f"root={tiny_run.root}", "device=cpu")
    assert command("predict", *given, "link_to=sorted", "gallery=look.html") == 0
    found = rows_of("labels.csv")
    assert [(row["label"], row["labelled_by"]) for row in found if row["split"] == "ignored"] == [("", "")]
    assert all(row["label"] for row in found if row["split"] == "train")
    links = {path.readlink() for path in Path("sorted").rglob("*") if path.is_symlink()}
    assert links == {(tiny_run.root / name).absolute() for number, name in enumerate(names) if number != 1}
    page = Path("look.html").read_text()
    assert f'{names[0]}"' in page
    assert f'{names[1]}"' not in page


def test_a_picture_that_was_being_copied_when_it_was_killed(
    tiny_run: TinyRun, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the middle of a copy, and killed with the copy in its place: each picture is there once."""
    given = (f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}", "device=cpu", "copy_to=sorted")
    copy, note = shutil.copy2, SortedPictures._note
    count = 0

    def half(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        copy(source, target)
        if count == 4:
            target.write_bytes(target.read_bytes()[:20])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("layermatch.prediction.sorting.shutil.copy2", half)
        assert command("predict", *given) == 75

    def silent(pictures: SortedPictures, *what: int | str) -> None:
        if what == (9,):
            raise KeyboardInterrupt
        note(pictures, *what)

    with monkeypatch.context() as patch:
        patch.setattr(SortedPictures, "_note", silent)
        assert command("predict", *given) == 75
    assert not Path("labels.csv").exists()
    mine = Path("sorted/mine.txt")
    mine.write_text("mine")
    assert command("predict", *given) == 2
    assert "copy_to=sorted holds mine.txt already" in capsys.readouterr().err
    mine.unlink()
    assert command("predict", *given) == 0
    copied = sorted(path.read_bytes() for path in Path("sorted").rglob("*") if path.is_file())
    assert copied == sorted(path.read_bytes() for path in tiny_run.test.rglob("*") if path.is_file())


@pytest.mark.parametrize("links", [False, True])
def test_pictures_of_files_that_changed_meanwhile_are_sorted_once(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again and again, while files are repaired, break, and are labelled otherwise."""
    monkeypatch.chdir(tmp_path)
    job = Job(Path("labels.csv"), identity={}, chunk_size=1)
    job.folder.mkdir()
    for number in range(6):
        Path(f"{number}.png").write_text(str(number))

    def sort(labels: list[str | None], *, halt: tuple[int, ...] = ()) -> dict[str, str]:
        """What is in the folders after an attempt; None stands for a file that cannot be read."""
        check_folder("copy_to", Path("sorted"), job=job, source=Path("list.txt"), targets=[])
        note = SortedPictures._note

        def halting(pictures: SortedPictures, *what: int | str) -> None:
            if what == halt:
                raise KeyboardInterrupt
            note(pictures, *what)

        pictures = SortedPictures(Path("sorted"), job=job, class_names=["cat", "dog"], links=links)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(SortedPictures, "_note", halting)
            for number, label in enumerate(labels):
                record = Record(f"{number}.png", "", "train", (0, 0))
                pictures.add(Result(record, label=label or "", reason="" if label else "broken"))
        pictures.drop()
        found = {path.relative_to("sorted").as_posix(): path.read_text() for path in Path("sorted").glob("*/*")}
        assert all(path.is_symlink() == links for path in Path("sorted").glob("*/*"))
        return found

    cats = {f"cat/{number}.png": str(number) for number in range(6)}
    assert sort(["cat", None, "cat", "cat", "cat", "cat"], halt=(5,)) == {
        name: text for name, text in cats.items() if text in "0234"
    }
    assert sort(["dog", "cat", "cat", None, "dog", "cat"], halt=(1,)) == {  # 4 came to its place, which was not noted
        "dog/0.png": "0", "cat/2.png": "2", "cat/3.png": "3", "cat/4.png": "4",
    }  # fmt: skip
    whole = {"dog/0.png": "0", "cat/1.png": "1", "cat/2.png": "2", "dog/4.png": "4", "cat/5.png": "5"}
    assert sort(["dog", "cat", "cat", None, "dog", "cat"]) == whole
    assert sort(["dog", "cat", "cat", None, "dog", "cat"]) == whole
    assert sort(["cat"] * 6) == cats
    (job.folder / "sorted.txt").write_text('"/a/b.png"\ndone\n')
    with pytest.raises(UserError, match=r"sorted\.txt is of an earlier version, and is not gone on with: remove "):
        sort(["cat"] * 6)


def test_a_repaired_file_is_sorted_when_it_goes_on(
    tiny_run: TinyRun, command: Command, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = pictures / "cat" / "00000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:20])
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "copy_to=sorted", "batch_size=5")
    note = SortedPictures._note

    def halting(pictures: SortedPictures, *what: int | str) -> None:
        if what == (9,):
            raise KeyboardInterrupt
        note(pictures, *what)

    with monkeypatch.context() as patch:
        patch.setattr(SortedPictures, "_note", halting)
        assert command("predict", *given) == 75
    broken.write_bytes(whole)
    assert command("predict", *given) == 0
    copied = sorted((path.parent.name, path.read_bytes()) for path in Path("sorted").rglob("*") if path.is_file())
    assert copied == sorted((row["label"], (pictures / row["path"]).read_bytes()) for row in rows_of("labels.csv"))
    assert len(copied) == sum(path.is_file() for path in pictures.rglob("*"))


def test_names_of_folders() -> None:
    names = ["cat", "Cat", "a/b", "..", ".hidden", "con", "x" * 400, "\udcff", "tail. ", "_uncertain", "\N{CAT FACE}"]
    folders = FolderNames(names)
    made = [folders.of(name) for name in (*names, "")]
    assert made == [folders.of(name) for name in (*names, "")]
    assert len({name.casefold() for name in made}) == len(made)
    assert made[:6] == ["cat", "Cat (2)", "a_b", "_", "_hidden", "_con"]
    assert made[-1] == "_uncertain (2)"
    assert all(len(name.encode()) < 255 and not set(name) & set('/\\:*?"<>|\0') for name in made)


# ------------------------------------------------------------------------------------------------------------ gallery


def test_the_gallery_is_bounded_and_escapes(tiny_run: TinyRun, command: Command, pictures: Path) -> None:
    shutil.copy(pictures / "cat" / "00000.png", pictures / "<script>alert(1)<.png")
    given = (f"ckpt_path={tiny_run.ckpt_path}", "input=pictures", "device=cpu", "gallery=g.html", "gallery_per_class=5")
    assert command("predict", *given) == 0
    page = Path("g.html").read_text(encoding="utf-8")
    rows = rows_of("labels.csv")
    shown = sum(min(5, sum(row["label"] == name for row in rows)) for name in ("cat", "dog", "fox"))
    assert page.count("data:image/jpeg;base64,") == shown
    assert "<script" not in page
    fox = sorted((row for row in rows if row["label"] == "fox"), key=lambda row: float(row["confidence"]))
    for row in (fox[0], fox[-1]):
        assert f'alt="{row["path"]}"' in page


def test_the_gallery_is_bounded_for_classes_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layermatch.prediction.gallery._MOST", 5)
    Image.new("RGB", (8, 8)).save("a.png")
    names = [f"class {number}" for number in range(9)]
    gallery = Gallery(Path("g.html"), root=Path(), class_names=names, per_class=3, title="many")
    for name in names:
        gallery.add(Result(Record("a.png", "", "train", (0, 0)), label=name, classes=(name,), confidences=(0.5,)))
    job = Job(Path("labels.csv"), identity={}, chunk_size=1)
    job.folder.mkdir()
    gallery.close(job)
    page = Path("g.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 5
    assert all(name in page for name in names)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["input=nowhere"], "input=nowhere: there is no such file or folder"),
        (["input=empty"], "input=empty has no images: nothing to predict"),
        (["input=mine.csv"], "input=mine.csv: none of its 2 files is in .: give root=DIR, the folder that its paths"),
        (["input=mine.csv", "root=full"], "input=mine.csv: none of its 2 files is in full: give root=DIR, the folder"),
        (["input=mine.txt"], "input=mine.txt: none of its 1 files is in .: give root=DIR, the folder that its paths"),
        (["input=no_text"], "input=no_text has no images, but a name that is not UTF-8 (1): 'caf\\udce9.png': nothing"),
        (["top_k=4"], "top_k=4 is not legal: give a whole number, at most 3, the number of classes"),
        (["top_k=0"], "top_k=0 is not legal: give a whole number, at least 1"),
        (["threshold=2"], "threshold=2 is not legal: give a number, at least 0 and at most 1"),
        (["weights=best"], "weights='best' is not legal: choose one of ema, live"),
        (["precision=half"], "precision='half' is not legal: choose one of auto, 32-true, bf16-mixed"),
        (["output=labels.xlsx"], "output=labels.xlsx is not legal: give a file that ends with .csv or .parquet"),
        (["output=no/labels.csv"], "no/labels.csv: there is no folder no: give a file in a folder that exists"),
        (["output=there.csv"], "there.csv is there already, and nothing is overwritten: give another name, or remove"),
        (["gallery=there.html"], "there.html is there already"),
        (["features=f.txt"], "features=f.txt is not legal: give a file that ends with .npy"),
        (["copy_to=a", "link_to=b"], "copy_to and link_to both say where pictures go: give one of them"),
        (["copy_to=full"], "copy_to=full holds mine.txt already: give a folder that is not there yet, or is empty"),
        (["link_to=there.csv"], "link_to=there.csv is a file: give a folder that is not there yet, or is empty"),
        (["copy_to=there.csv/a/b"], "copy_to=there.csv/a/b cannot be made or written to: Not a directory: give"),
        (["copy_to=/proc/a/b"], "copy_to=/proc/a/b cannot be made or written to: No such file or directory: give"),
        (["input=full", "copy_to=full"], "copy_to=full and input=full are one folder, or one lies in the other"),
        (["input=full", "copy_to=full/new"], "copy_to=full/new and input=full are one folder, or one lies in the"),
        (["input=full", "link_to=."], "link_to=. and input=full are one folder, or one lies in the other"),
        (["root=elsewhere"], "root=elsewhere is not a folder"),
        (["root=empty"], "is not below root=empty"),
        (["device=tpu"], "device='tpu' is not legal"),
        (["devices=0"], "devices=0 is not legal: give a whole number, at least 1"),
        (["ckpt_path=nothing.ckpt"], "ckpt_path=nothing.ckpt: there is no such file or folder: give a .ckpt"),
        (["ckpt_path=full"], "ckpt_path=full is no run directory with a checkpoint in checkpoints/: give a"),
        (["ckpt_path=zeros.png"], "error: ckpt_path=zeros.png is no checkpoint: give a .ckpt file of a run\n"),
        (["classes=3"], "unknown setting classes: choose one of batch_size, ckpt_path"),
        (["~weights"], "weights is missing: give weights=VALUE; ~weights takes it away"),
        (["input=null"], "input=null is not legal: give the path of a folder, a manifest, a list of files or an image"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_nothing_is_left(
    tiny_run: TinyRun, command: Command, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.csv").write_text("path,label,split\na.png,,\nb.png,cat,\n")
    Path("mine.txt").write_text("a.png\n")
    for folder in ("empty", "full", "no_text"):
        Path(folder).mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("no_text/caf\udce9.png").write_bytes(b"")
    Path("zeros.png").write_bytes(bytes(1000))  # which torch takes for an old archive
    for name in ("there.csv", "there.html"):
        Path(name).write_text("mine")
    before = sorted(Path().rglob("*"))
    given = {"ckpt_path": str(tiny_run.ckpt_path), "input": str(tiny_run.test)}
    given |= dict(word.split("=", 1) for word in words if "=" in word)
    assert (
        command("predict", *(f"{key}={value}" for key, value in given.items()), *(w for w in words if "=" not in w))
        == 2
    )
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    assert Path("there.csv").read_text() == "mine"


def test_a_checkpoint_is_not_asked_for_twice(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict") == 2
    assert capsys.readouterr().err == "error: ckpt_path is not given: give ckpt_path=VALUE\n"


def test_another_process_at_work(tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with Job(Path("labels.csv"), identity={}, chunk_size=1).held([]):
        assert command("predict", f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}") == 2
    assert "output=labels.csv is being written by another process" in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_done(
    tiny_run: TinyRun, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (f"ckpt_path={tiny_run.ckpt_path}", f"input={tiny_run.test}", "device=cpu", "batch_size=5")
    write, count = Path.write_bytes, 0

    def full(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError(28, os.strerror(28), str(path))
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert command("predict", *given) == 1
    error = capsys.readouterr().err
    assert "No space left on device: what is done is kept: make room, then start the same command again" in error
    assert len(list(Path("labels.csv.unfinished/chunks").iterdir())) == 4
    assert command("predict", *given) == 0
    assert json.dumps(len(rows_of("labels.csv"))) == str(len(rows_of(tiny_run.run_dir / "predictions.csv")))
