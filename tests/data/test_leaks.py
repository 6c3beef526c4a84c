"""Training images that are evaluated as well: planted in arrays, in IDX files and in folders, counted and taken out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import stand_ins
from tests.data.test_datamodule import as_rank

from layermatch import UserError
from layermatch.data import SemiSupervisedData, file_images
from layermatch.data.digests import image_digests
from layermatch.data.images import ArrayImages
from layermatch.data.sources import MNIST, Folder, ImageSet, SourceData

#: Positions in the pool of 60: copies of test images, and pairs of one image.
TEST_COPIES = {5: 0, 17: 3, 44: 3}
PAIRS = {30: 12, 31: 13}
FURTHER_COPIES = {2: 7}


class Planted:
    """A source of random images, 60 in the pool, 10 further ones and 12 to test on, some of which are identical."""

    def __init__(self, *, folds: bool = False, more: bool = True) -> None:
        generator = np.random.default_rng(0)
        pool, further, test = (generator.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8) for count in (60, 10, 12))
        for there, of in TEST_COPIES.items():
            pool[there] = test[of]
        for there, of in PAIRS.items():
            pool[there] = pool[of]
        for there, of in FURTHER_COPIES.items():
            further[there] = test[of]
        self.pool, self.further, self.test = pool, further, test
        self.folds = (np.arange(6), np.array([5, 8, 9])) if folds else ()
        self.more = more

    def load(self) -> SourceData:
        return SourceData(
            classes=("cat", "dog", "fox"),
            labelled=ImageSet(ArrayImages(self.pool), np.arange(60) % 3),
            unlabelled=ImageSet(ArrayImages(self.further), np.full(10, -1)) if self.more else None,
            test=ImageSet(ArrayImages(self.test), np.arange(12) % 3),
            folds=self.folds,
        )


def make(source: Any = None, **changes: Any) -> SemiSupervisedData:
    options: dict[str, Any] = {
        "num_labels": 30, "num_val": 12, "batch_size": 4, "mu": 3, "mean": (0.5,), "std": (0.5,), "seed": 0,
    }  # fmt: skip
    data = SemiSupervisedData(source or Planted(), **options | changes)
    data.setup()
    return data


def pixels(images: ImageSet | None) -> set[bytes]:
    """The contents of images, found here by looking at each of them."""
    return set() if images is None else {image.tobytes() for image in images.images.read(np.arange(len(images)))}


def counted(data: SemiSupervisedData) -> dict[str, dict[str, int]]:
    """The leaks of a data module, counted by comparing the images themselves."""
    evaluated = {"test": pixels(data.test), "validation": pixels(data.validation)}
    in_pool = data.split.in_pool
    is_other = np.concatenate(
        [~np.isin(in_pool, data.split.labelled), np.ones(len(data.unlabelled) - len(in_pool), bool)]
    )
    groups = {
        "labelled": data.labelled.images.read(np.arange(len(data.labelled))),
        "unlabelled": data.unlabelled.images.read(np.flatnonzero(is_other)),
    }
    found = {
        group: {name: sum(image.tobytes() in there for image in images) for name, there in evaluated.items()}
        for group, images in groups.items()
    }
    validation = data.validation.images.read(np.arange(len(data.validation)))
    return found | {"validation": {"test": sum(image.tobytes() in evaluated["test"] for image in validation)}}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_reported_is_what_a_comparison_of_all_images_finds(seed: int) -> None:
    data = make(seed=seed)
    found = data.leaks_found
    assert found is not None
    assert {"labelled": found.labelled, "unlabelled": found.unlabelled, "validation": found.validation} == counted(data)
    of_test = [found.labelled["test"], found.unlabelled["test"], found.validation["test"]]
    assert sum(of_test) == len(TEST_COPIES) + len(FURTHER_COPIES)
    without = make(seed=seed, leaks="keep")
    assert without.leaks_found is None
    assert (without.split, len(without.unlabelled)) == (data.split, len(data.unlabelled))


@pytest.mark.parametrize("seed", range(8))
def test_what_is_removed_is_trained_on_nowhere_and_every_label_is_there(seed: int) -> None:
    data = make(seed=seed, leaks="remove")
    training, evaluated = pixels(data.labelled) | pixels(data.unlabelled), pixels(data.test) | pixels(data.validation)
    assert not training & evaluated
    assert not pixels(data.validation) & pixels(data.test)
    assert (len(data.labelled), len(data.validation), len(data.test)) == (30, 12, 12)
    assert np.bincount(data.labelled.labels).tolist() == [10, 10, 10]
    # Copies of validation images go too, and nothing else does.
    twins = sum(there in data.split.validation or of in data.split.validation for there, of in PAIRS.items())
    assert len(data.unlabelled) == 60 - len(TEST_COPIES) - 12 - twins + 10 - len(FURTHER_COPIES)
    assert data.leaks_found.unlabelled == {"test": len(TEST_COPIES) + len(FURTHER_COPIES), "validation": twins}
    assert set(data.leaks_found.labelled.values()) == {0}
    for step in range(3):
        batch = data.batch_of_step(step)
        assert batch.unlabelled.views["weak"].shape == (12, 1, 8, 8)
    known = data.pool_labels.numpy()
    assert (known >= 0).sum() == 30
    rows = data.split.in_pool[np.flatnonzero(known[: len(data.split.in_pool)] >= 0)]
    assert sorted(rows) == sorted(data.split.labelled)


class WithOwnValidation(Planted):
    """The same with 9 validation images of its own: copies of a pool image, a further one and a test image."""

    def load(self) -> SourceData:
        own = np.random.default_rng(1).integers(0, 256, (9, 1, 8, 8), dtype=np.uint8)
        own[2], own[4], own[7] = self.pool[20], self.further[6], self.test[1]
        return replace(super().load(), validation=ImageSet(ArrayImages(own), np.arange(9) % 3))


@pytest.mark.parametrize("seed", range(3))
def test_validation_images_of_ones_own_are_evaluated_images(seed: int) -> None:
    data = make(WithOwnValidation(), seed=seed, num_val=0)
    found = data.leaks_found
    assert {"labelled": found.labelled, "unlabelled": found.unlabelled, "validation": found.validation} == counted(data)
    assert found.labelled["validation"] + found.unlabelled["validation"] == 2
    assert found.validation == {"test": 1}
    named = {(one, other) for _, one, other in found.examples}
    assert {("labelled:20", "validation:2"), ("unlabelled:6", "validation:4")} <= named
    stays = "leaks=remove takes them out; 1 validation images are byte-identical to test images, and stay"
    assert found.text(uses_unlabelled=True).endswith(stays)  # what leaks=remove cannot do is not promised

    removed = make(WithOwnValidation(), seed=seed, num_val=0, leaks="remove")
    training = pixels(removed.labelled) | pixels(removed.unlabelled)
    assert not training & (pixels(removed.test) | pixels(removed.validation))
    assert (len(removed.labelled), len(removed.validation)) == (30, 9)
    assert "1 validation images are byte-identical to test images, and stay" in removed.leaks_found.text(
        uses_unlabelled=True
    )


def test_a_fold_is_evaluated_in_place_of_ones_own_validation_images() -> None:
    data = make(WithOwnValidation(), num_val=0)
    fold = replace(
        data.split, labelled=data.split.labelled[5:], validation=data.split.labelled[:5], names=(), contents=()
    )
    held_out = make(WithOwnValidation(), num_labels=None, num_val=0, split=fold)
    assert pixels(held_out.validation) == {image.tobytes() for image in Planted().pool[list(fold.validation)]}
    found = held_out.leaks_found
    assert {"labelled": found.labelled, "unlabelled": found.unlabelled, "validation": found.validation} == counted(
        held_out
    )


def test_where_nothing_leaks_nothing_changes() -> None:
    class Clean(Planted):
        def __init__(self) -> None:
            super().__init__()
            generator = np.random.default_rng(1)
            for images in (self.pool, self.further):
                images[...] = generator.integers(0, 256, images.shape, dtype=np.uint8)

    kept, removed = make(Clean(), leaks="report"), make(Clean(), leaks="remove")
    assert (kept.split, kept.split.left_out) == (removed.split, removed.split.left_out)
    assert len(kept.unlabelled) == len(removed.unlabelled)
    text = "none: no training image is byte-identical to a test or validation image"
    assert [data.leaks_found.text(uses_unlabelled=True) for data in (kept, removed)] == [text, text]


def test_a_split_is_used_again_without_what_leaks_and_is_refused_with_it(tmp_path: Path) -> None:
    first = make(leaks="remove")
    first.save_split(tmp_path / "split.json")
    assert "left_out" not in json.loads((tmp_path / "split.json").read_text())
    again = make(leaks="remove", split=tmp_path / "split.json", num_labels=None, num_val=0, seed=9)
    assert again.split == first.split
    assert again.split.left_out == first.split.left_out
    assert pixels(again.unlabelled) == pixels(first.unlabelled)
    leaking = next(data for seed in range(20) if (data := make(seed=seed)).leaks_found.labelled["test"])
    leaking.save_split(tmp_path / "leaking.json")
    given = {"split": tmp_path / "leaking.json", "num_labels": None, "num_val": 0}
    with pytest.raises(
        UserError, match=r"^leaks=remove is not legal with split=.*: \d+ of its labelled and .*labelled:\d"
    ):
        make(leaks="remove", **given)
    assert make(leaks="report", **given).leaks_found == leaking.leaks_found


def test_a_fold_is_as_it_was_published_or_refused() -> None:
    source = Planted(folds=True)
    data = make(source, fold=0, num_labels=None, num_val=40, leaks="keep")
    assert data.split.labelled == (0, 1, 2, 3, 4, 5)
    with pytest.raises(UserError, match=r"^leaks=remove is not legal with fold=0: 1 of its .*labelled:5\)"):
        make(source, fold=0, num_labels=None, leaks="remove")
    source.pool[5] = 7
    data = make(source, leaks="remove", fold=1, num_labels=None, num_val=20)
    assert data.split.labelled == (5, 8, 9)
    assert len(data.validation) == 20
    assert not (pixels(data.labelled) | pixels(data.unlabelled)) & (pixels(data.test) | pixels(data.validation))


def test_long_tails_and_unseen_classes_go_with_it() -> None:
    tail = {"labelled": 3, "labelled_head": 6, "unlabelled": 2}
    data = make(Planted(more=False), leaks="remove", imbalance=tail, num_labels=None, num_val=6)
    assert np.bincount(data.labelled.labels).tolist() == [6, 3, 2]
    assert not (pixels(data.labelled) | pixels(data.unlabelled)) & (pixels(data.test) | pixels(data.validation))
    data = make(leaks="remove", open_set=["dog"], num_labels=8, num_val=4)
    assert len(data.labelled) == 8
    assert not (pixels(data.labelled) | pixels(data.unlabelled)) & (pixels(data.test) | pixels(data.validation))


@pytest.mark.parametrize("step", [0, 11])
def test_two_ranks_together_train_on_what_one_would(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"leaks": "remove", "label_noise": 0.4, "mu": 4}
    alone = make(batch_size=6, **options).batch_of_step(step)
    batches = []
    for rank in range(2):
        data = make(batch_size=3, **options)
        as_rank(data, rank, 2, monkeypatch)
        batches.append(data.batch_of_step(step))
    for part in ("labelled", "unlabelled"):
        expected, *parts = (getattr(batch, part) for batch in (alone, *batches))
        assert torch.equal(torch.cat([each.indices for each in parts]), expected.indices)
        for view, pixels_of_view in expected.views.items():
            assert torch.equal(torch.cat([each.views[view] for each in parts]), pixels_of_view)
    assert torch.equal(torch.cat([batch.labelled.label for batch in batches]), alone.labelled.label)


def test_images_are_found_in_idx_files(tmp_path: Path) -> None:
    written = stand_ins.write_mnist(tmp_path)
    train, labels = written["train"]
    train[7], train[9] = written["t10k"][0][1], written["t10k"][0][2]
    stand_ins.write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", train[:, 0])
    source = MNIST(root=tmp_path, verify=False)
    found = make(source, num_labels=None, num_val=0).leaks_found
    assert found.labelled == {"test": 2}
    assert [example[1:] for example in found.examples] == [("labelled:7", "test:1"), ("labelled:9", "test:2")]
    data = make(source, num_labels=None, num_val=0, leaks="remove")
    assert data.split.labelled == tuple(row for row in range(60) if row not in {7, 9})
    assert labels[np.asarray(data.split.labelled)].tolist() == data.labelled.labels.tolist()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures of the training classes in the test set, one of them in another file format."""
    root = tmp_path / "pictures"
    stand_ins.write_folder(root, per_class=8, test_per_class=4, size=32)
    shutil.copy(root / "test" / "cat" / "00001.png", root / "train" / "cat" / "copy.png")
    from PIL import Image

    with Image.open(root / "test" / "fox" / "00002.png") as image:
        image.save(root / "train" / "fox" / "copy.bmp")
    return root


@pytest.mark.parametrize("storage", ["disk", "ram", "lazy", "auto"])
def test_files_are_decoded_once_whatever_the_storage(
    storage: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def counting(path: str, **options: Any) -> Any:
        decoded.append(path)
        return decode(path, **options)

    decode = file_images.decode_image
    monkeypatch.setattr(file_images, "decode_image", counting)
    options = {
        "num_labels": None, "num_val": 0, "mean": (0.5,) * 3, "std": (0.5,) * 3, "storage": storage,
        "cache_dir": tmp_path / "cache", "num_workers": 0,
    }  # fmt: skip
    source = Folder(root=pictures, image_size=32)
    found = make(source, **options).leaks_found
    assert found.labelled == {"test": 2}
    assert {example[1:] for example in found.examples} == {
        ("train/cat/copy.png", "test/cat/00001.png"), ("train/fox/copy.bmp", "test/fox/00002.png")
    }  # fmt: skip
    assert found.text(uses_unlabelled=True).startswith("byte-identical to test images: 2 labelled (train/cat")
    assert len(decoded) == len(set(decoded)) == 3 * 8 + 2 + 3 * 4
    decoded.clear()
    data = make(source, **options | {"leaks": "remove"})
    assert len(decoded) == (0 if storage != "ram" else 38)
    assert len(data.labelled) == 24
    assert not {"train/cat/copy.png", "train/fox/copy.bmp"} & set(data.split.names)


def test_digests_that_were_lost_are_made_of_the_cache(pictures: Path, tmp_path: Path) -> None:
    options = {"num_labels": None, "num_val": 0, "mean": (0.5,) * 3, "std": (0.5,) * 3, "cache_dir": tmp_path / "cache"}
    source = Folder(root=pictures, image_size=32)
    first = make(source, **options).leaks_found
    kept = sorted((tmp_path / "cache").glob("*.digests"))
    assert len(kept) == 2
    kept[0].unlink()
    kept[1].write_bytes(b"damaged")
    assert make(source, **options).leaks_found == first
    assert sorted((tmp_path / "cache").glob("*.digests")) == kept


def test_the_text_counts_what_a_method_trains_on() -> None:
    found = next(data for seed in range(20) if not (data := make(seed=seed)).leaks_found.labelled["test"]).leaks_found
    assert found.unlabelled["test"]
    assert " unlabelled" in found.text(uses_unlabelled=True)
    assert "unlabelled" not in found.text(uses_unlabelled=False)


def test_digests_tell_images_apart() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2, (2000, 1, 2, 6), dtype=np.uint8)
    contents = {image.tobytes() for image in images}
    digests = image_digests(images)
    assert len(contents) < 2000
    assert len(set(digests.tolist())) == len(contents)
    assert image_digests(images[::3].transpose(0, 1, 3, 2)).shape == (667,)
    assert image_digests(images[:0]).shape == (0,)


@pytest.mark.parametrize("leaks", ["none", "", None, True, 1])
def test_another_word_is_refused(leaks: Any) -> None:
    with pytest.raises(UserError, match=r"^leaks=.* is not legal: choose "):
        make(leaks=leaks)
