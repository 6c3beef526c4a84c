"""A split and the files that it is of: renamed, added, removed and replaced."""

from __future__ import annotations

import json
import logging
import os
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import stand_ins

from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData, Split
from layermatch.data.identity import MOST_LOOKED_INTO
from layermatch.data.images import ArrayImages
from layermatch.data.sources import Digits, Folder, ImageSet, Source, SourceData
from layermatch.errors import UserError

SIDE = 8
LOGGER = "layermatch.data.labelling"


class Noise:
    """Two classes of images in memory that no other seed has."""

    def __init__(self, seed: int = 0, *, count: int = 20) -> None:
        self.seed = seed
        self.count = count

    def load(self) -> SourceData:
        images = np.random.default_rng(self.seed).integers(0, 256, (self.count, 3, SIDE, SIDE)).astype(np.uint8)
        pool = ImageSet(images=ArrayImages(images), labels=np.arange(self.count, dtype=np.int64) % 2)
        return SourceData(classes=("even", "odd"), labelled=pool, unlabelled=None, test=None)


def make(source: Source, **options: Any) -> SemiSupervisedData:
    """A data module that is set up."""
    channels = 1 if isinstance(source, Digits) else 3
    settings: dict[str, Any] = {"num_labels": None, "seed": 0, "storage": "lazy"} | options
    data = SemiSupervisedData(
        source, weak=WeakView(), strong=StrongView(), mean=(0.5,) * channels, std=(0.5,) * channels, **settings
    )
    data.setup()
    return data


def pictures(root: Path, *, layout: str = "train", seed: int = 0, per_class: int = 6) -> Folder:
    stand_ins.write_folder(root, layout=layout, size=SIDE, seed=seed, per_class=per_class, test_per_class=0)
    return Folder(root=root, image_size=SIDE)


def files(data: SemiSupervisedData, positions: Sequence[int]) -> list[str]:
    return [data.content.image_id("labelled", position) for position in positions]


@pytest.fixture
def drawn(tmp_path: Path) -> SemiSupervisedData:
    """Three of six pictures a class are labelled or held out, as ``split.json`` says."""
    data = make(pictures(tmp_path / "pictures"), num_labels=6, num_val=3)
    data.save_split(tmp_path / "split.json")
    return data


def unused(data: SemiSupervisedData, root: Path) -> list[Path]:
    """Files that are neither labelled nor held out, one for each class."""
    used = set(files(data, (*data.split.labelled, *data.split.validation)))
    names = [name for name in data.content.image_ids["labelled"] if name not in used]
    return [root / next(name for name in names if f"/{kind}/" in name) for kind in data.classes]


def add_files(data: SemiSupervisedData, root: Path) -> None:
    for number, path in enumerate(unused(data, root)):
        image = np.full((1, 3, SIDE, SIDE), 40 * number, np.uint8)
        stand_ins.write_pngs(root / "new", image)
        shutil.move(root / "new" / "00000.png", path.with_name("000.png"))  # before all others
    (root / "new").rmdir()


def lose_files(data: SemiSupervisedData, root: Path) -> None:
    for path in unused(data, root):
        path.unlink()


def rename_files(data: SemiSupervisedData, root: Path) -> None:
    for path in unused(data, root):
        path.rename(path.with_name("zzz.png"))


HARMLESS: dict[str, tuple[Callable[[SemiSupervisedData, Path], None], int]] = {
    "added": (add_files, 21), "lost": (lose_files, 15), "renamed": (rename_files, 18)
}  # fmt: skip


@pytest.mark.parametrize("change", HARMLESS)
def test_a_split_finds_its_images_when_unlabelled_files_changed(
    change: str, drawn: SemiSupervisedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alter, count = HARMLESS[change]
    alter(drawn, tmp_path / "pictures")
    with caplog.at_level(logging.WARNING, LOGGER):
        again = make(Folder(root=tmp_path / "pictures", image_size=SIDE), split=tmp_path / "split.json")
    assert files(again, again.split.labelled) == files(drawn, drawn.split.labelled)
    assert files(again, again.split.validation) == files(drawn, drawn.split.validation)
    everything = np.arange(6)
    np.testing.assert_array_equal(again.labelled.images.read(everything), drawn.labelled.images.read(everything))
    np.testing.assert_array_equal(again.labelled.labels, drawn.labelled.labels)
    assert len(again.content.labelled) == count
    (record,) = caplog.records
    line = record.getMessage()
    assert f"(18 training images then, {count} now)" in line
    assert "\n" not in line


def test_nothing_is_said_where_nothing_changed(
    drawn: SemiSupervisedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tmp_path / "pictures", tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING, LOGGER):
        again = make(Folder(root=tmp_path / "elsewhere", image_size=16), split=tmp_path / "split.json")
    assert again.split == drawn.split
    assert not caplog.records


def test_further_unlabelled_files_beside_labelled_ones_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = pictures(tmp_path / "pictures", layout="labeled")
    make(source, num_labels=6).save_split(tmp_path / "split.json")
    (tmp_path / "pictures" / "unlabeled" / "00003.png").unlink()
    with caplog.at_level(logging.WARNING, LOGGER):
        make(source, split=tmp_path / "split.json")
    assert "(30 training images then, 29 now)" in caplog.records[0].getMessage()


@pytest.mark.parametrize("part", ["labelled", "validation"])
@pytest.mark.parametrize("change", ["renamed", "gone", "another class"])
def test_a_split_refuses_to_do_without_one_of_its_files(
    change: str, part: str, drawn: SemiSupervisedData, tmp_path: Path
) -> None:
    name = files(drawn, getattr(drawn.split, part))[0]
    path = tmp_path / "pictures" / name
    if change == "gone":
        path.unlink()
    else:
        path.rename(path.with_name("zzz.png") if change == "renamed" else path.parents[1] / "fox" / "new.png")
    with pytest.raises(UserError) as caught:
        make(Folder(root=tmp_path / "pictures", image_size=SIDE), split=tmp_path / "split.json")
    text = str(caught.value)
    assert text.startswith(f"split={tmp_path / 'split.json'} is not of these images")
    assert f"1 of its 9 labelled and validation images are not there ({name})" in text
    assert "\n" not in text


@pytest.mark.parametrize(("first", "second"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_copy_that_spells_names_in_another_unicode_form_is_the_same_data(
    first: str, second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "pictures"
    source = pictures(root)
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(path.with_name(unicodedata.normalize(first, f"é{number:02}.png")))
    data = make(source, num_labels=6, num_val=3)
    data.save_split(tmp_path / "split.json")
    expected = data.labelled.images.read(np.arange(6))
    for path in list(root.rglob("*.png")):
        path.rename(path.with_name(unicodedata.normalize(second, path.name)))
    with caplog.at_level(logging.WARNING, LOGGER):
        again = make(Folder(root=root, image_size=SIDE), split=tmp_path / "split.json")
    assert not caplog.records
    np.testing.assert_array_equal(again.labelled.images.read(np.arange(6)), expected)


def test_a_split_refuses_files_whose_contents_were_exchanged(drawn: SemiSupervisedData, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    first, other = (root / name for name in files(drawn, (drawn.split.labelled[0], drawn.split.validation[0])))
    first.rename(root / "aside.png")
    other.rename(first)
    (root / "aside.png").rename(other)
    with pytest.raises(UserError, match=r"2 of its 9 labelled and validation images have another content now \("):
        make(Folder(root=root, image_size=SIDE), split=tmp_path / "split.json")


def test_a_split_refuses_another_data_set_of_the_same_names(drawn: SemiSupervisedData, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9 of its 9 labelled and validation images have another content now"):
        make(pictures(tmp_path / "others", seed=1), split=drawn.split)


def test_a_split_knows_its_images_in_memory() -> None:
    split = make(Noise(), num_labels=4).split
    assert make(Noise(), split=split).split == split
    with pytest.raises(
        UserError, match=r"4 of its 4 .* have another content now \(image \d+, image \d+, image \d+ and 1"
    ):
        make(Noise(seed=1), split=split)


def test_many_images_are_looked_into_here_and_there() -> None:
    count = MOST_LOOKED_INTO + 500
    split = make(Noise(count=count)).split
    assert sum(map(bool, split.contents)) == MOST_LOOKED_INTO
    assert split.contents[0]
    assert split.contents[-1]
    assert make(Noise(count=count), split=split).split == split
    with pytest.raises(UserError, match=f"{MOST_LOOKED_INTO:,} of its {count:,} "):
        make(Noise(seed=1, count=count), split=split)


def test_a_split_of_files_is_none_of_arrays_nor_the_other_way_round(drawn: SemiSupervisedData, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"is of image files \(train/cat/\d+.png and 8 more\), but this data set holds no"
    ):
        make(Noise(count=18), split=tmp_path / "split.json")
    noise = make(Noise(count=18), num_labels=4)
    with pytest.raises(UserError, match="is of no image files, but this data set holds image files"):
        make(drawn.source, split=noise.split)


def test_names_of_any_bytes_are_kept(tmp_path: Path) -> None:
    source = pictures(tmp_path / "pictures")
    folder = tmp_path / "pictures" / "train" / "cat"
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / os.fsdecode(b"\xff\n%d.png" % number))
    data = make(source, num_labels=6)
    data.save_split(tmp_path / "split.json")
    assert make(source, split=tmp_path / "split.json").split == data.split


# ------------------------------------------------------------------------------------------- files of earlier versions


def positions_alone(path: Path, split: Split) -> Path:
    """What earlier versions wrote."""
    fields = {name: split.plain()[name] for name in ("seed", "pool_size", "labelled", "validation")}
    path.write_text(json.dumps(fields))
    return path


def test_positions_alone_are_taken_where_images_have_no_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = make(Digits(), num_labels=20, num_val=10)
    with caplog.at_level(logging.WARNING, LOGGER):
        again = make(Digits(), split=positions_alone(tmp_path / "old.json", first.split))
    assert again.split == first.split
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "does not say which images it is of, as an earlier version wrote it: taken by position"
    )


def test_positions_alone_are_refused_where_files_may_have_been_renamed(
    drawn: SemiSupervisedData, tmp_path: Path
) -> None:
    old = positions_alone(tmp_path / "old.json", drawn.split)
    with pytest.raises(UserError, match="does not say which files it is of, as an earlier version wrote it"):
        make(drawn.source, split=old)


def test_positions_of_a_split_made_by_hand_are_taken(drawn: SemiSupervisedData) -> None:
    assert make(drawn.source, split=Split(0, 18, (0, 7, 13), ())).split.names[0] == "train/cat/00000.png"


@pytest.mark.parametrize("key", ["names", "contents"])
def test_a_file_that_lost_a_name_is_no_split(key: str, drawn: SemiSupervisedData, tmp_path: Path) -> None:
    fields = drawn.split.plain()
    (tmp_path / "split.json").write_text(json.dumps(fields | {key: fields[key][1:]}))
    with pytest.raises(UserError, match="is not a split file written by a run"):
        Split.load(tmp_path / "split.json")


# ------------------------------------------------------------------------------------------------- what a split leaves


def test_classes_without_labels_are_named(drawn: SemiSupervisedData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER):
        make(drawn.source, split=Split(0, 18, (6, 7), ()))
    (record,) = caplog.records
    assert record.getMessage() == "no image of 2 of the 3 classes is labelled (cat, fox): they cannot be learnt"


def test_a_split_has_its_own_number_of_validation_images(drawn: SemiSupervisedData, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    for num_val in (0, 3):
        assert make(drawn.source, split=path, num_val=num_val).split.validation == drawn.split.validation
    with pytest.raises(UserError, match=r"holds out 3 validation images, but num_val=6: give num_val=3, or"):
        make(drawn.source, split=path, num_val=6)
    with pytest.raises(UserError, match=r"holds out 0 validation images, but num_val=6: give num_val=0, or"):
        make(drawn.source, split=Split(0, 18, (0, 7, 13), ()), num_val=6)
