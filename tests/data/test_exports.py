"""What other tools export becomes rows of a manifest; the files here are as those tools describe them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from layermatch.data.exports import Export, read_export
from layermatch.data.manifest import Row
from layermatch.errors import UserError


def with_files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def exported(tmp_path: Path, content: Any, *, name: str = "export.json", **options: Any) -> Export:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_export(path, root=tmp_path / "pictures", **options)


# -------------------------------------------------------------------------------------------------------- Label Studio


def choice(*labels: str, control: str = "choice", kind: str = "choices") -> dict[str, Any]:
    return {
        "id": "Dx_aB91ISN", "type": kind, "value": {"choices": list(labels)}, "origin": "manual", "to_name": "image",
        "from_name": control,
    }  # fmt: skip


def annotation(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": 1001, "completed_by": 10, "result": list(results), "was_cancelled": False, "ground_truth": False,
        "created_at": "2021-03-09T22:16:08.728353Z", "updated_at": "2021-03-09T22:16:08.728378Z", "lead_time": 4.288,
        **more,
    }  # fmt: skip


def task(image: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": 1, "annotations": list(annotations), "file_upload": image.rpartition("/")[2], "drafts": [],
        "predictions": [{"model_version": "1", "result": [choice("fox")]}], "data": {"image": image}, "meta": {},
        "created_at": "2021-03-09T21:52:49.513742Z", "updated_at": "2021-03-09T22:16:08.746926Z", "project": 83,
    }  # fmt: skip


def test_raw_tasks_of_label_studio(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg", "deep/a b.jpg", "c.jpg", "bucket/d.jpg", "e.jpg", "f.jpg")
    tasks = [
        task("/data/upload/3/0a1b2c3d-1.jpg", annotation(choice("cat"))),
        task("/data/local-files/?d=deep/a%20b.jpg", annotation(choice("dog")), annotation(choice("dog"))),
        task("https://example.com/x/c.jpg", annotation(choice("cat"), was_cancelled=True)),
        task("s3://bucket/d.jpg", annotation(choice("cat")), annotation(choice("dog"))),
        task("/data/upload/3/e.jpg", annotation(choice("cat")), annotation(choice("dog"), ground_truth=True)),
        task("/data/upload/3/f.jpg"),
    ]
    found = exported(tmp_path, tasks)
    assert found.rows == (
        Row("1.jpg", "cat"), Row("bucket/d.jpg"), Row("c.jpg"), Row("deep/a b.jpg", "dog"), Row("e.jpg", "dog"),
        Row("f.jpg"),
    )  # fmt: skip
    assert found.disagreements == 1


def test_several_choices_are_to_be_told_apart(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg")
    tasks = [task("1.jpg", annotation(choice("cat"), choice("sharp", control="quality")))]
    with pytest.raises(UserError, match=r"its tasks have several choices: give field=choice or field=quality$"):
        exported(tmp_path, tasks)
    assert exported(tmp_path, tasks, field="quality").rows == (Row("1.jpg", "sharp"),)
    with pytest.raises(UserError, match=r"field=x is none of its choices: choose one of choice, quality$"):
        exported(tmp_path, tasks, field="x")


def test_minimal_json_and_csv_of_label_studio(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg", "2.jpg")
    item = {
        "id": 1, "annotator": 1, "annotation_id": 1, "created_at": "2024-01-01T00:00:00Z", "lead_time": 1.0,
        "updated_at": "2024-01-01T00:00:00Z",
    }  # fmt: skip
    rows = (Row("1.jpg", "cat"), Row("2.jpg", "dog"))
    items = [
        {"image": "/data/upload/1/0a1b2c3d-1.jpg", "choice": "cat", **item},
        {"image": "/data/upload/1/4e5f6a7b-2.jpg", "choice": "dog", **item},
    ]
    assert exported(tmp_path, items).rows == rows
    header = "annotation_id,annotator,choice,created_at,id,image,lead_time,updated_at"
    lines = [f"1,1,{one['choice']},2024,1,{one['image']},1.0,2024" for one in items]
    assert exported(tmp_path, "\n".join([header, *lines]), name="export.csv").rows == rows
    tabbed = "\n".join([header, *lines]).replace(",", "\t")
    assert exported(tmp_path, tabbed, name="export.tsv").rows == rows
    with pytest.raises(UserError, match="1 images have several classes, the first is data/upload/1/"):
        exported(tmp_path, [{**items[0], "choice": {"choices": ["cat", "dog"]}}])


# ---------------------------------------------------------------------------------------------------------------- CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>pets</name><size>4</size><mode>annotation</mode>
    <labels><label><name>cat</name><attributes></attributes></label></labels></task>
    <dumped>2024-09-25 11:38:28.799808+00:00</dumped></meta>
  <image id="0" name="a/1.jpg" width="64" height="48"><tag label="cat" source="manual"></tag></image>
  <image id="1" name="2.jpg" subset="Validation" width="64" height="48"><tag label="d&amp;g" source="auto"/></image>
  <image id="2" name="3.jpg" subset="Test" width="64" height="48">
    <box label="cat" xtl="1.0" ytl="1.0" xbr="5.0" ybr="5.0" occluded="0" z_order="0"></box>
    <tag label="cat" source="manual"><attribute name="sharp">true</attribute></tag>
  </image>
  <image id="3" name="4.jpg" width="64" height="48"></image>
</annotations>
"""


def test_tags_of_cvat(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "a/1.jpg", "2.jpg", "3.jpg", "4.jpg")
    rows = (Row("2.jpg", "d&g", "val"), Row("3.jpg", "cat", "test"), Row("4.jpg"), Row("a/1.jpg", "cat"))
    assert exported(tmp_path, CVAT, name="annotations.xml").rows == rows
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as file:
        file.writestr("annotations.xml", CVAT)
        file.writestr("images/2.jpg", b"")
    assert read_export(tmp_path / "pets.zip", root=tmp_path / "pictures").rows == rows


# ------------------------------------------------------------------------------------------------------------ FiftyOne


def test_a_classification_data_set_of_fiftyone(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "data/000001.jpg", "data/000002.png", "data/deep/000003.jpg", "data/000004.jpg")
    labels = {"000001": 1, "000002": {"label": 0, "confidence": 0.9}, "deep/000003": "cat", "000004": None}
    (tmp_path / "pictures" / "labels.json").write_text(json.dumps({"classes": ["cat", "dog"], "labels": labels}))
    assert read_export(tmp_path / "pictures", root=tmp_path / "pictures").rows == (
        Row("data/000001.jpg", "dog"), Row("data/000002.png", "cat"), Row("data/000004.jpg"),
        Row("data/deep/000003.jpg", "cat"),
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"1 images have several classes, the first is 000001: here each image has one$"
    ):
        exported(tmp_path, {"classes": ["cat", "dog"], "labels": {"000001": [0, 1]}})


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "its format is not seen: give format=label_studio, format=cvat, format=fiftyone"),
        ("[]", {}, "it has no images"),
        ("[1]", {}, "it is not as exports are (TypeError: "),
        ("[{", {}, "it is no JSON: "),
        ('{"labels": {"1": 7}, "classes": ["cat"]}', {}, "it is not as exports are (IndexError: "),
        ('{"info": {}}', {}, "it is not as exports are (KeyError: 'labels')"),
        ("<annotations><image/></annotations>", {}, "it is not as exports are (KeyError: 'name')"),
        ("<annotations><track/></annotations>", {}, "it is not of images: export as CVAT for images 1.1"),
        ("<annotations>", {}, "it is no XML: "),
        ("<annotations></annotations>", {"field": "x"}, "field=x is of Label Studio's exports: give field=null"),
        ('{"labels": {"1": "cat", "2": "dog"}}', {}, "1 of its 2 images are not found below "),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, content: str, options: dict[str, Any], message: str) -> None:
    with_files(tmp_path / "pictures", "1.jpg")
    with pytest.raises(UserError) as caught:
        exported(tmp_path, content, **options)
    assert str(caught.value).startswith(f"the export {tmp_path / 'export.json'}: {message}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        (("a/1.jpg", "b/1.jpg"), "/data/upload/3/1.jpg", "a/1.jpg and b/1.jpg"),
        (("1.jpg", "dogs/1.jpg"), "/data/local-files/?d=cats/1.jpg", "1.jpg and dogs/1.jpg"),
        (("a/1.jpg", "a/1.png"), "s3://b/a/1", "a/1.jpg and a/1.png"),
    ],
)
def test_an_image_that_two_files_may_be_is_not_guessed(
    files: tuple[str, ...], name: str, said: str, tmp_path: Path
) -> None:
    with_files(tmp_path / "pictures", *files)
    with pytest.raises(UserError, match=f"1 of its 1 images may be one or .*: several files are called so, {said}$"):
        exported(tmp_path, [task(name, annotation(choice("cat")))])


@pytest.mark.parametrize("labels", [("cat", "dog"), ("dog", "dog")])
def test_two_images_of_an_export_are_never_one_file(labels: tuple[str, str], tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "dogs/1.jpg")
    tasks = [
        task(f"{folder}/1.jpg", annotation(choice(label)))
        for folder, label in zip(("cats", "dogs"), labels, strict=True)
    ]
    with pytest.raises(
        UserError, match=r"cats/1\.jpg and dogs/1\.jpg are two images in it, and one file below .*, dogs/"
    ):
        exported(tmp_path, tasks)


def test_a_path_of_one_part_is_in_the_folder_itself_and_no_copy_of_a_system_counts(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg", "1.jpg.json", "a/1.jpg", "a/2.jpg", ".thumbs/2.jpg", "@eaDir/2.jpg")
    tasks = [task(name, annotation(choice("cat"))) for name in ("1.jpg", "2.jpg")]
    assert exported(tmp_path, tasks).rows == (Row("1.jpg", "cat"), Row("a/2.jpg", "cat"))


@pytest.mark.parametrize("classes", [("Quercus.alba", "Rosa.alba"), ("Quercus.alba", "Acer.rubrum"), ("a.jpg", "b")])
def test_a_class_that_looks_like_a_file_is_a_class(classes: tuple[str, str], tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg", "2.jpg")
    items = [
        {"choice": classes[0], "image": "/data/upload/1/0a1b2c3d-1.jpg", "id": 1},
        {"choice": classes[1], "image": "2.jpg", "id": 2},
    ]
    rows = (Row("1.jpg", classes[0]), Row("2.jpg", classes[1]))
    assert exported(tmp_path, items).rows == rows
    lines = ["choice,image,id", *(",".join(map(str, item.values())) for item in items)]
    assert exported(tmp_path, "\n".join(lines), name="export.csv").rows == rows


def test_an_export_without_choices_is_refused(tmp_path: Path) -> None:
    with_files(tmp_path / "pictures", "1.jpg")
    with pytest.raises(UserError, match=r"none of its columns has choices$"):
        exported(tmp_path, [{"image": "1.jpg", "id": 1}])
