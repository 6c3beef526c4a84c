"""data=manifest: the table's labels are the labelled images, and everything else works as with folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from tests.data.stand_ins import class_images

from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.data import SemiSupervisedData
from layermatch.data.manifest import Row, write_manifest
from layermatch.data.sources import Folder, Manifest
from layermatch.errors import UserError
from layermatch.settings import Settings

SIDE = 16


def write_pictures(root: Path) -> list[Row]:
    """36 pictures of three classes: a third of those to learn from have no label."""
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(("cat", "dog", "fox")):
        (root / "all").mkdir(parents=True, exist_ok=True)
        for k, pixels in enumerate(class_images(rng, np.full(12, number), SIDE)):
            path = f"all/{name}{k}.png"
            Image.fromarray(pixels.transpose(1, 2, 0)).save(root / path)
            split = "test" if k < 2 else "val" if k < 4 else "train"
            rows.append(Row(path, "" if k >= 9 else name, split))
    return rows


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    made = write_pictures(tmp_path / "pictures")
    write_manifest(tmp_path / "labels.csv", made)
    return made


def source(tmp_path: Path, **given: Any) -> Manifest:
    return Manifest(manifest=tmp_path / "labels.csv", root=tmp_path / "pictures", **given)


def data_of(tmp_path: Path, **given: Any) -> SemiSupervisedData:
    data = SemiSupervisedData(
        source(tmp_path, image_size=SIDE), batch_size=4, mu=2, storage="ram", mean=(0.5,) * 3, std=(0.5,) * 3, **given
    )
    data.setup()
    return data


def test_the_parts_are_those_of_the_table(tmp_path: Path, rows: list[Row]) -> None:
    data = source(tmp_path).load()
    assert data.classes == ("cat", "dog", "fox")
    assert {part: len(images) for part, images in data.parts().items()} == {
        "labelled": 15, "unlabelled": 9, "validation": 6, "test": 6,
    }  # fmt: skip
    assert data.image_ids["test"] == tuple(row.path for row in rows if row.split == "test")
    assert data.validation is not None
    assert data.validation.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.labelled.images.shape == (3, SIDE, SIDE)
    assert data.measured == {"image_size": SIDE}
    assert data.notes == {
        "image size": "16, as the median short side of 24 files is 16: data.image_size=N gives another"
    }


def test_every_label_is_learnt_from_or_so_many_are_drawn(tmp_path: Path, rows: list[Row]) -> None:
    data = data_of(tmp_path)
    assert (len(data.labelled), len(data.unlabelled)) == (15, 24)
    assert data.validation is not None
    assert len(data.validation) == 6
    few = data_of(tmp_path, num_labels=6)
    assert (len(few.labelled), len(few.unlabelled)) == (6, 24)
    with pytest.raises(UserError, match=r"data\.num_val=3: this data set has 6 validation images of its own"):
        data_of(tmp_path, num_val=3)


def test_the_root_is_the_folder_of_the_table_where_none_is_given(tmp_path: Path, rows: list[Row]) -> None:
    write_manifest(tmp_path / "pictures" / "labels.csv", rows)
    data = Manifest(manifest=tmp_path / "pictures" / "labels.csv", image_size=8).load()
    assert data.labelled.images.read(np.arange(3)).shape == (3, 3, 8, 8)


def test_rows_that_are_not_used_are_counted(tmp_path: Path, rows: list[Row]) -> None:
    rows[0] = replace(rows[0], label="")
    more = [Row("gone.png", "blurred", "ignored"), Row("all/none.png", "", "ignored")]
    write_manifest(tmp_path / "labels.csv", [*rows, *more])
    data = source(tmp_path, image_size=8).load()
    assert data.notes == {"not used": "rows of the manifest: ignored (2), test without a label (1)"}
    assert data.test is not None
    assert len(data.test) == 5


def with_rows(*changed: Row) -> Any:
    def change(rows: list[Row]) -> list[Row]:
        paths = {row.path for row in changed}
        return [*(row for row in rows if row.path not in paths), *changed]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [replace(row, label="") for row in rows],
            "no training image has a label: label some of each class",
        ),
        (
            lambda rows: [row for row in rows if row.label in {"cat", ""}],
            "all labels of training images are cat: label at least 2 classes",
        ),
        (
            with_rows(Row("all/cat0.png", "Cat", "test")),
            "no training image has the label Cat of 1 test images, the first of which is all/cat0.png: the classes are "
            "cat, dog, fox; 'Cat' and 'cat' differ only in upper and lower case",
        ),
        (with_rows(Row("a/1.png", "cat"), Row("a/2.png")), "2 of its 38 images are not in "),
        (with_rows(Row("all", "cat")), "1 of its 37 images are not in "),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, rows: list[Row], change: Any, message: str) -> None:
    write_manifest(tmp_path / "labels.csv", change(rows))
    with pytest.raises(UserError) as caught:
        source(tmp_path).load()
    assert str(caught.value).startswith(f"data.manifest={tmp_path / 'labels.csv'}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_split_knows_its_images_whatever_is_added(tmp_path: Path, rows: list[Row]) -> None:
    first = data_of(tmp_path, num_labels=6)
    first.save_split(tmp_path / "split.json")
    labelled = [replace(row, label=row.label or "cat") if row.split == "train" else row for row in rows]
    write_manifest(tmp_path / "labels.csv", labelled[::-1])
    again = data_of(tmp_path, split=tmp_path / "split.json")
    names = [again.content.image_ids["labelled"][row] for row in again.split.labelled]
    assert set(names) == {first.content.image_ids["labelled"][row] for row in first.split.labelled}
    assert len(again.unlabelled) == 24


def test_a_split_is_not_of_images_with_other_labels(tmp_path: Path, rows: list[Row]) -> None:
    data = data_of(tmp_path)
    data.save_split(tmp_path / "split.json")
    place = next(number for number, row in enumerate(rows) if row.split == "train" and row.label == "cat")
    rows[place] = replace(rows[place], label="dog")
    write_manifest(tmp_path / "labels.csv", rows)
    with pytest.raises(UserError, match="1 of its 15 labelled and validation images have another content now"):
        data_of(tmp_path, split=tmp_path / "split.json")


def settings_of(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        words = ["experiment=folder", "data=manifest", "model=wrn_small", "trainer=cpu", "run_dir=run", *overrides]
        return plain(compose("run", overrides=words))


def test_every_leaf_of_the_configuration_is_consumed(tmp_path: Path, rows: list[Row]) -> None:
    given = (f"data.manifest={tmp_path / 'labels.csv'}", f"data.root={tmp_path / 'pictures'}", "data.storage=ram")
    settings = settings_of(*given)
    parts = build_parts(Settings.parse(settings))
    assert parts.data.image_shape == (3, SIDE, SIDE)
    for name in ("manifest", "root", "image_size", "channels", "mean", "std"):
        with pytest.raises(UserError):
            build_parts(Settings.parse({**settings, "data": {**settings["data"], name: "poison"}}))


def test_what_was_chosen_and_measured_is_kept_in_the_split(tmp_path: Path, rows: list[Row]) -> None:
    def made(**given: Any) -> SemiSupervisedData:
        data = SemiSupervisedData(source(tmp_path), batch_size=4, mu=2, storage="ram", num_labels=6, **given)
        data.setup()
        return data

    first = made()
    assert set(first.split.measured) == {"image_size", "mean", "std"}
    assert list(first.mean) == first.split.measured["mean"]
    first.save_split(tmp_path / "split.json")
    for row in rows:  # larger and darker pictures do not change what the run goes on with
        if not row.label:
            Image.new("RGB", (48, 48)).save(tmp_path / "pictures" / row.path)
    again = made(split=tmp_path / "split.json")
    assert again.image_shape == (3, SIDE, SIDE)
    assert (again.mean, again.std) == (first.mean, first.std)
    assert again.split.measured == first.split.measured
    given = made(split=tmp_path / "split.json", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert given.split.measured == {"image_size": SIDE}


def test_a_folder_may_have_validation_images_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 3), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for k, pixels in enumerate(class_images(rng, np.full(count, number), SIDE)):
                Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / part / name / f"{k}.png")
    data = Folder(root=tmp_path, image_size=None).load()
    assert data.validation is not None
    assert (len(data.labelled), len(data.validation), len(data.test or ())) == (8, 6, 4)
    assert data.image_ids["validation"][0] == "val/cat/0.png"
    assert "not used" not in data.notes
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "wolf")
    with pytest.raises(UserError, match=r"the class folders of train/ and val/ in .* differ: only train/ has dog"):
        Folder(root=tmp_path).load()


@pytest.mark.parametrize(("side", "size"), [(32, 32), (30, 32), (3, 8), (97, 96), (500, 96)])
def test_the_size_is_the_median_of_the_short_sides(tmp_path: Path, side: int, size: int) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (side + 10 * k, side)).save(tmp_path / "train" / name / f"{k}.png")
    data = Folder(root=tmp_path, image_size=None).load()
    assert data.labelled.images.shape == (3, size, size)
    assert data.notes["image size"].startswith(f"{size}, as the median short side of 4 files is {side}")
