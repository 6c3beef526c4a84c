"""Classes that no label has: what is in which part, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from tests.data import stand_ins

from layermatch import UserError
from layermatch.build import build_parts
from layermatch.cli import config_dir, plain
from layermatch.data import SemiSupervisedData
from layermatch.data.images import ArrayImages
from layermatch.data.open_set import leave_classes_out, unseen_classes
from layermatch.data.sources import Digits, Folder, ImageSet, SourceData
from layermatch.settings import Settings

CLASSES = ("cat", "dog", "fox", "owl")


class Numbered:
    """A source whose images each have their own colour: 3x8x8, four classes in turn."""

    def __init__(self, *, num_pool: int = 40, num_more: int = 12, num_test: int = 16, named: bool = False) -> None:
        self.sizes = {"labelled": num_pool, "unlabelled": num_more, "test": num_test}
        self.named = named

    def load(self) -> SourceData:
        def images(first: int, count: int) -> ArrayImages:
            return ArrayImages(
                np.arange(first, first + count, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
            )

        pool, more, test = self.sizes.values()
        more_labels = np.arange(more) % 4
        more_labels[::3] = -1
        ids = {part: tuple(f"{part}/{i}" for i in range(size)) for part, size in self.sizes.items()}
        return SourceData(
            classes=CLASSES,
            labelled=ImageSet(images(0, pool), np.arange(pool) % 4),
            unlabelled=ImageSet(images(100, more), more_labels),
            test=ImageSet(images(200, test), np.arange(test) % 4),
            folds=(np.arange(3),),
            image_ids=ids if self.named else {},
            notes={"skipped": "nothing"},
        )


def colours(images: Any) -> list[int]:
    return images.read(np.arange(len(images)))[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("open_set", [["dog", "owl"], [1, 3], ["owl", 1]])
def test_every_image_is_where_its_class_belongs(open_set: list[int | str]) -> None:
    whole = Numbered(named=True).load()
    data = leave_classes_out(whole, open_set)
    assert data.classes == ("cat", "fox")
    for part, of_whole in (("labelled", whole.labelled), ("test", whole.test)):
        found = data.parts()[part]
        kept = [i for i, label in enumerate(of_whole.labels.tolist()) if CLASSES[label] in data.classes]
        assert [data.classes[label] for label in found.labels] == [CLASSES[of_whole.labels[i]] for i in kept]
        assert colours(found.images) == [colours(of_whole.images)[i] for i in kept]
        assert data.image_ids[part] == tuple(f"{part}/{i}" for i in kept)
    unseen = [i for i, label in enumerate(whole.labelled.labels.tolist()) if label in {1, 3}]
    assert colours(data.unlabelled.images) == unseen + colours(whole.unlabelled.images)
    assert data.image_ids["unlabelled"] == (
        *(f"labelled/{i}" for i in unseen), *(f"unlabelled/{i}" for i in range(12))
    )  # fmt: skip
    # Of the images without a label, those of seen classes keep what is known of them.
    known = [-1 if label in {-1, 1, 3} else label // 2 for label in whole.unlabelled.labels.tolist()]
    assert data.unlabelled.labels.tolist() == [-1] * len(unseen) + known
    assert data.folds == ()
    assert data.notes["unseen classes"] == (
        "2 of 4 (dog, owl): 20 images, in the unlabelled pool alone; 8 test images of theirs are left out"
    )
    assert data.notes["skipped"] == "nothing"


def test_a_number_says_how_many_classes_have_labels() -> None:
    assert unseen_classes(CLASSES, 2) == (2, 3)
    assert leave_classes_out(Numbered().load(), 3).classes == ("cat", "dog", "fox")


def make(source: Any = None, **changes: Any) -> SemiSupervisedData:
    options: dict[str, Any] = {"num_labels": 6, "batch_size": 4, "mu": 3, "mean": (0.5,), "std": (0.5,), "seed": 0}
    return SemiSupervisedData(source or Numbered(), **options | changes)


def test_batches_have_labels_of_seen_classes_and_pool_images_of_all() -> None:
    data = make(open_set=["dog", "owl"], num_val=4)
    data.setup()
    assert data.classes == ("cat", "fox")
    assert len(data.labelled) == 6
    assert len(data.validation) == 4
    assert len(data.unlabelled) == 40 - 4 + 12
    assert sorted(colours(data.unlabelled.images)[: 40 - 4]) == sorted(
        set(range(40)) - set(colours(data.validation.images))
    )
    for part in (data.labelled, data.validation, data.test):
        assert set(part.labels.tolist()) == {0, 1}
    seen = [data.batch_of_step(step) for step in range(6)]
    assert {int(label) for batch in seen for label in batch.labelled.label} == {0, 1}
    hidden = {int(label) for batch in seen for label in batch.unlabelled.hidden_label}
    assert hidden == {-1, 0, 1}


def test_the_labelled_images_of_a_split_are_found_again_and_others_are_refused(tmp_path: Path) -> None:
    first = make(open_set=["dog"], num_labels=6)
    first.setup()
    first.save_split(tmp_path / "split.json")
    again = make(open_set=["dog"], num_labels=None, split=tmp_path / "split.json")
    again.setup()
    assert colours(again.labelled.images) == colours(first.labelled.images)
    with pytest.raises(UserError, match="is of a pool of 30 images, but this data set has 40"):
        make(num_labels=None, split=tmp_path / "split.json").setup()


@pytest.mark.parametrize("storage", ["ram", "disk", "lazy"])
def test_a_folder_of_image_files_can_have_unseen_classes(storage: str, tmp_path: Path) -> None:
    stand_ins.write_folder(tmp_path / "folder")
    source = Folder(root=tmp_path / "folder", image_size=32)
    whole = source.load()
    name = whole.classes[0]
    data = make(
        source, open_set=[name], num_labels=None, mean=(0.5,) * 3, std=(0.5,) * 3, storage=storage,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    data.setup()
    assert name not in data.classes
    num_unseen = int((whole.labelled.labels == 0).sum())
    assert num_unseen
    assert len(data.labelled) == len(whole.labelled) - num_unseen
    assert data.batch_of_step(0).unlabelled.views["strong"].shape == (12, 3, 32, 32)
    ids = data.content.image_ids
    assert set(ids["labelled"]).isdisjoint(ids["unlabelled"])


def test_without_it_nothing_changes() -> None:
    plain, none = make(Digits(), num_labels=40), make(Digits(), num_labels=40, open_set=None)
    for data in (plain, none):
        data.setup()
    assert plain.split == none.split
    assert plain.classes == none.classes


@pytest.mark.parametrize(
    ("open_set", "message"),
    [
        (["wolf"], "open_set: there is no class 'wolf': the classes are cat, dog, fox, owl"),
        ([4], "open_set=4 is not legal"),
        ([-1], "open_set=-1 is not legal"),
        (["dog", 1], r"open_set=\['dog', 1\] names a class twice"),
        (["cat", "dog", "fox"], r"open_set=\['cat', 'dog', 'fox'\] leaves 1 of 4 classes: leave at least 2"),
        ([], r"open_set=\[\] is not legal: give a list of classes, or how many have labels"),
        ("dog", "open_set='dog' is not legal: give a list of classes"),
        (1, "open_set=1 is not legal"),
        (4, "open_set=4 is not legal"),
        (2.5, "open_set=2.5 is not legal"),
        (True, "open_set=True is not legal"),
    ],
)
def test_what_makes_no_sense_is_refused(open_set: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(open_set=open_set).setup()


def test_a_fold_and_a_pool_without_unseen_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"^fold=0 is not legal with open_set=\['dog'\]: "):
        make(open_set=["dog"], fold=0, num_labels=None)
    few = Numbered(num_pool=3)  # a cat, a dog and a fox
    with pytest.raises(UserError, match=r"no training image is of an unseen class \(owl\)"):
        make(few, open_set=["owl"], num_labels=None).setup()


def test_the_number_of_classes_is_that_of_the_seen_ones_from_the_command_line_on() -> None:
    overrides = [
        "run_dir=unused", "experiment=digits", "algorithm=iomatch", "data.open_set=[3,'8']", "data.num_labels=16",
        "data.num_val=0", "trainer=cpu", "model.width=1",
    ]  # fmt: skip
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        parts = build_parts(Settings.parse(plain(compose("run", overrides=overrides))))
    network = parts.algorithm.network
    assert parts.data.classes == tuple("01245679")
    assert network.classifier.out_features == 8
    assert (network.heads["one_vs_all"].out_features, network.heads["open"].out_features) == (16, 9)
    assert parts.data.content.notes["unseen classes"].startswith("2 of 10 (3, 8): ")
