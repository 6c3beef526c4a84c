"""The table of images, labels and splits: what is read is checked, what is written is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.room import room_for

from layermatch.components import section_of_errors
from layermatch.data.manifest import Row, class_names, read_manifest, write_manifest
from layermatch.errors import UserError

ROWS = [
    Row("cats/1.jpg", "cat"),
    Row("a, b.jpg", 'the "dog"', "test"),
    Row("c\nd.jpg", "", "val"),
    Row("e\rf.jpg", "a\tcat", "val"),
    Row(" g\r\nh.jpg", "", "val"),
    Row("1.jpg", "", "ignored"),
]


def written(tmp_path: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    rows = [*ROWS, Row("e.jpg", "cat", "train", {"seen by": "me, at noon", "sure": "1"})]
    write_manifest(tmp_path / name, rows)
    read = read_manifest(tmp_path / name)
    assert [(row.path, row.label, row.split) for row in read] == [(row.path, row.label, row.split) for row in rows]
    assert read[-1].others == rows[-1].others
    assert read[0].others == {"seen by": "", "sure": ""}
    write_manifest(tmp_path / name, read)
    assert read_manifest(tmp_path / name) == read
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert class_names(read) == ("cat",)


def test_spelling_does_not_matter(tmp_path: Path) -> None:
    text = "\ufefflabel , path,split\r\n cafe\u0301 ,./a//b.jpg, TEST \r\n\r\ncat,b/../c.jpg,\r\n"
    assert read_manifest(written(tmp_path, text)) == [Row("a/b.jpg", "caf\xe9", "test"), Row("c.jpg", "cat")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty: give a table with the columns path,label,split"),
        ("\n \n", "it is empty: give a table with the columns path,label,split"),
        ("path,label,split\n", "it has a header and no rows: give a row for each image"),
        ("path,label\n1.jpg,cat\n", "line 1: it has no column split, but 'path', 'label': give the columns path,la"),
        (
            "file,label,split\n1.jpg,cat,\n",
            "line 1: it has no column path, but 'file', 'label', 'split': give the colu",
        ),
        ("path;label;split\n1.jpg;cat;\n", "line 1: it has no column path, as its cells are separated by semicolons: "),
        ("path,label,split,label\n1.jpg,cat,,\n", "line 1: the column label is there twice: give each column once"),
        ("path,label,split\n1.jpg,cat,\n2.jpg,cat\n", "line 3: it has 2 cells and the header 3: give as many, with "),
        ("path,label,split\n1.jpg,cat,train\n2.jpg,cat,dev\n", "line 3: the split 'dev' is not legal: choose one of "),
        ("path,label,split\n,cat,\n", "line 2: it has no path: give the image file, relative to the root"),
        ("path,label,split\n/etc/1.jpg,cat,\n", "line 2: /etc/1.jpg is outside the root: give paths relative to it"),
        ("path,label,split\na/../../1.jpg,cat,\n", "line 2: a/../../1.jpg is outside the root: give paths relative "),
        ("path,label,split\nC:\\1.jpg,cat,\n", "line 2: C:\\1.jpg is outside the root: give paths relative to it"),
        ("path,label,split\n.,cat,\n", "line 2: . is a folder: give the path of an image file"),
        ("path,label,split\na\0.jpg,cat,\n", "line 2: its path holds a NUL, which no file's name does"),
        (
            'path,label,split\n"a\nb.jpg",cat,\n1.jpg,,\n./1.jpg,dog,\n',
            "line 5: 1.jpg is in line 4 already: name each image once",
        ),
        ('path,label,split\n"1.jpg,cat,\n2.jpg,cat,\n', "line 2: unexpected end of data: close every quote, and "),
        (b"path,label,split\n1.jpg,caf\xe9,\n", "line 2: it is not UTF-8: save it as CSV in UTF-8"),
        (b"PAR1nonsense", "it is no whole Parquet file: "),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = written(tmp_path, content)
    # A run names settings in its errors: the columns of a table are none, though one is called as a setting.
    with pytest.raises(UserError) as caught, section_of_errors("data", ["split", "label_noise"]):
        read_manifest(path)
    assert str(caught.value).startswith(f"the manifest {path}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^the manifest {tmp_path} is a folder: give a CSV file or a Parquet file$"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match=r"^cannot read the manifest .*/gone\.csv: No such file or directory$"):
        read_manifest(tmp_path / "gone.csv")


def test_a_name_that_is_no_text_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_manifest(tmp_path / "labels.csv", ROWS)
    before = (tmp_path / "labels.csv").read_bytes()
    with pytest.raises(UserError, match=r"is no text in UTF-8: give the file another name$"):
        write_manifest(tmp_path / "labels.csv", [Row("caf\udce9.jpg", "cat")])
    with pytest.raises(UserError, match="split='dev' is not legal"):
        write_manifest(tmp_path / "labels.csv", [Row("1.jpg", "cat", "dev")])
    assert (tmp_path / "labels.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["labels.csv", "labels.parquet"])
def test_the_old_manifest_stays_where_a_new_one_cannot_be_written(tmp_path: Path, name: str) -> None:
    write_manifest(tmp_path / name, ROWS)
    with room_for(10), pytest.raises(OSError, match="File too large"):
        write_manifest(tmp_path / name, ROWS[:1])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(read_manifest(tmp_path / name)) == len(ROWS)


def test_numbers_and_nothing_in_parquet_are_text(tmp_path: Path) -> None:
    columns = {"path": ["1.jpg", "2.jpg"], "label": [3, None], "split": pa.array([None, "test"])}
    parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    assert read_manifest(tmp_path / "labels.parquet") == [Row("1.jpg", "3"), Row("2.jpg", "", "test")]


def test_parquet_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.parquet"
    write_manifest(path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for use in (lambda: read_manifest(path), lambda: write_manifest(path, ROWS)):
        with pytest.raises(UserError, match=r"pip install 'layermatch\[parquet\]'"):
            use()


def test_manifests_are_read_without_torch() -> None:
    code = "import layermatch.data.manifest, sys; sys.exit(bool({'torch', 'torchvision', 'pyarrow'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
