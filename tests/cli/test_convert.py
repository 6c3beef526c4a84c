"""``python -m layermatch.convert``: from another tool's export to a manifest, by the command and by its function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import processes

from layermatch.convert import convert
from layermatch.data.manifest import Row, read_manifest
from layermatch.errors import UserError


def write_export(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for name in ("1", "2", "3"):
        (folder / "data" / f"{name}.jpg").touch()
    (folder / "labels.json").write_text(json.dumps({"labels": {"1": "cat", "2": "dog", "3": None}}))
    return folder


def settings(folder: Path, **given: Any) -> dict[str, Any]:
    plain = {"input": str(folder / "export"), "root": None, "output": str(folder / "labels.csv"), "format": "auto"}
    return plain | {"field": None} | given


def test_an_export_becomes_a_manifest(tmp_path: Path) -> None:
    write_export(tmp_path / "export")
    command = [sys.executable, "-m", "layermatch.convert", "input=export"]
    done = processes.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 images: 2 with a label, of 2 classes; 1 without\nwritten to labels.csv: ")
    rows = [Row("data/1.jpg", "cat"), Row("data/2.jpg", "dog"), Row("data/3.jpg")]
    assert read_manifest(tmp_path / "labels.csv") == rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "labels.txt"}, "output=labels.txt is no manifest: give a name that ends with .csv or .parquet"),
        (
            {"output": "no/labels.csv"},
            "output=no/labels.csv: there is no folder no: give a file in a folder that exists",
        ),
        ({"root": "gone"}, "root=gone is not a folder: give the folder that the images are below"),
        ({"format": "coco"}, "format='coco' is not legal: choose one of auto, label_studio, cvat, fiftyone"),
        ({"bogus": 1}, "unknown setting bogus: choose one of field, format, input, output, root"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    write_export(tmp_path / "export")
    with pytest.raises(UserError) as caught:
        convert(settings(tmp_path, **given))
    assert str(caught.value) == message


def test_a_manifest_that_is_there_stays(tmp_path: Path) -> None:
    write_export(tmp_path / "export")
    convert(settings(tmp_path))
    before = (tmp_path / "labels.csv").read_bytes()
    with pytest.raises(UserError, match=r"labels\.csv exists: give another name$"):
        convert(settings(tmp_path))
    assert (tmp_path / "labels.csv").read_bytes() == before
