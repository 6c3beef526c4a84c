"""Long tails: their sizes against the formula written out, what they leave alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layermatch.data import SemiSupervisedData, Split, make_split
from layermatch.data.imbalance import Imbalance, long_tail
from layermatch.data.sources import Digits, ImageSet, SourceData
from layermatch.data.sources.base import unknown_labels
from layermatch.errors import UserError

Labels = NDArray[np.int64]


@cache
def digits() -> Labels:
    return Digits().load().labelled.labels


def split_of(imbalance: Imbalance | None, **changes: Any) -> Split:
    options: dict[str, Any] = {"num_labels": None, "num_val": 0, "val_from": "pool", "seed": 0}
    return make_split(digits(), num_classes=10, imbalance=imbalance, **options | changes)


def counts(positions: tuple[int, ...]) -> list[int]:
    return np.bincount(digits()[list(positions)], minlength=10).tolist()


def data_of(source: Any = None, **options: Any) -> SemiSupervisedData:
    data = SemiSupervisedData(source or Digits(), batch_size=8, mu=2, mean=(0.3,), std=(0.4,), **options)
    data.setup()
    return data


@pytest.mark.parametrize("gamma", [1, 2, 10, 100, 150])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("head", [1, 50, 500, 1500])
def test_sizes_are_those_of_the_formula(head: int, gamma: int, num_classes: int) -> None:
    """The size of class k, from 0, is the largest n with ``n^(K-1) gamma^k <= head^(K-1)``: exact, in whole numbers."""
    for k, size in enumerate(long_tail(head=head, gamma=gamma, num_classes=num_classes).tolist()):
        power = num_classes - 1
        assert size**power * gamma**k <= head**power < (size + 1) ** power * gamma**k


def test_sizes_of_the_published_sets() -> None:
    """CIFAR-10-LT of ABC and DASO: 1,500 labels of the first class, 15 of the last."""
    assert long_tail(head=1500, gamma=100, num_classes=10).tolist() == [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]
    assert long_tail(head=3000, gamma=100, num_classes=10)[[0, -1]].tolist() == [3000, 30]


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("seed", [0, 7])
def test_both_tails_are_drawn_apart_from_each_other_and_from_validation(seed: int, is_reversed: bool) -> None:
    tails = Imbalance(labelled=10, labelled_head=20, unlabelled=5, unlabelled_head=60, reversed=is_reversed)
    drawn = split_of(tails, num_val=50, seed=seed)
    assert counts(drawn.labelled) == long_tail(head=20, gamma=10, num_classes=10).tolist()
    expected = long_tail(head=60, gamma=5, num_classes=10).tolist()
    assert counts(drawn.unlabelled) == (expected[::-1] if is_reversed else expected)
    assert len(set(drawn.positions)) == len(drawn.positions)
    assert list(drawn.unlabelled) == sorted(drawn.unlabelled)
    # The validation images are those of a balanced run: they keep the shares of the whole pool.
    assert drawn.validation == split_of(None, num_labels=40, num_val=50, seed=seed).validation


def test_the_seed_alone_decides_which_images() -> None:
    tails = Imbalance(labelled=10, labelled_head=20, unlabelled=5, unlabelled_head=60)
    first, again, other = (split_of(tails, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.labelled != other.labelled
    assert first.unlabelled != other.unlabelled


@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("gamma", [1, 3, 20])
def test_without_a_head_the_pool_is_as_large_as_the_classes_allow(gamma: int, is_reversed: bool) -> None:
    tails = Imbalance(unlabelled=gamma, reversed=is_reversed)
    found = counts(split_of(tails, num_labels=40, num_val=30).unlabelled)
    whole = split_of(None, num_labels=40, num_val=30)
    spare = np.bincount(digits()) - counts(whole.labelled) - counts(whole.validation)
    order = slice(None, None, -1 if is_reversed else 1)
    assert found == long_tail(head=max(found), gamma=gamma, num_classes=10)[order].tolist()
    # One more in the largest class asks some class for more than there is, before rounding down.
    asked = (max(found) + 1) * float(gamma) ** -(np.arange(10) / 9)[order]
    assert (asked > spare).any()


def test_a_tail_of_labels_alone_leaves_the_pool_whole() -> None:
    drawn = split_of(Imbalance(labelled=10, labelled_head=20), num_val=30)
    assert drawn.unlabelled == ()
    assert len(drawn.in_pool) == len(digits()) - 30


def test_gamma_one_is_the_balanced_split() -> None:
    assert split_of(Imbalance(labelled=1, labelled_head=4)).labelled == split_of(None, num_labels=40).labelled


@pytest.mark.parametrize("storage", ["ram", "device"])
def test_batches_are_of_the_images_of_the_split(storage: str) -> None:
    tails = {"labelled": 10, "labelled_head": 20, "unlabelled": 4, "unlabelled_head": 40, "reversed": True}
    data = data_of(imbalance=tails, num_val=30, storage=storage)
    pool = data.split.in_pool
    assert set(pool) == {*data.split.labelled, *data.split.unlabelled}
    assert len(data.unlabelled) == len(pool) == len(data.labelled) + len(data.split.unlabelled)
    content = data.content.labelled
    batch = data.training_steps()[5].unlabelled
    np.testing.assert_array_equal(batch.images, content.images.read(pool[batch.indices.numpy()]))
    is_labelled = np.isin(pool, data.split.labelled)
    np.testing.assert_array_equal(data.unlabelled.labels, np.where(is_labelled, -1, content.labels[pool]))
    if storage == "device":
        raw = data.training_steps(read_images=False)[5]
        filled = data._pool_on(raw.labelled.label.device).fill(raw)
        np.testing.assert_array_equal(filled.unlabelled.images, batch.images)
        np.testing.assert_array_equal(filled.labelled.images, data.training_steps()[5].labelled.images)


def test_the_split_file_holds_the_pool(tmp_path: Path) -> None:
    tails = Imbalance(labelled=10, labelled_head=20, unlabelled=4, unlabelled_head=40)
    drawn = data_of(imbalance=tails, num_val=30)
    drawn.save_split(tmp_path / "split.json")
    again = data_of(split=tmp_path / "split.json")
    assert again.split == drawn.split
    assert len(again.split.contents) == len(again.split.positions)
    np.testing.assert_array_equal(again.unlabelled.labels, drawn.unlabelled.labels)


def test_a_split_without_a_pool_of_its_own_reads_as_before(tmp_path: Path) -> None:
    drawn = data_of(num_labels=40, num_val=30)
    plain = drawn.split.plain()
    del plain["unlabelled"]
    assert Split.of_plain(plain, origin="") == drawn.split


def test_another_image_of_the_pool_is_noticed() -> None:
    drawn = data_of(imbalance={"unlabelled": 4, "unlabelled_head": 40}, num_labels=40).split
    contents = list(drawn.contents)
    contents[-1] = "0" * 16
    with pytest.raises(UserError, match=r"1 of its .* labelled, validation and unlabelled images have another content"):
        data_of(split=replace(drawn, contents=tuple(contents)))


class WithFurtherImages:
    """Digits, with images of unknown class beside them."""

    def load(self) -> SourceData:
        content = Digits().load()
        return replace(content, unlabelled=ImageSet(content.test.images, unknown_labels(len(content.test))))


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"labelled": 0.5, "labelled_head": 5}, "imbalance.labelled=0.5 is not legal"),
            ({"labelled": "10", "labelled_head": 5}, "imbalance.labelled='10' is not legal"),
            ({"labelled": 10}, "imbalance.labelled=10 needs imbalance.labelled_head"),
            ({"labelled_head": 10}, "imbalance.labelled_head=10 needs imbalance.labelled, a number"),
            ({"labelled": 10, "labelled_head": 2.5}, "imbalance.labelled_head=2.5 is not legal"),
            ({"unlabelled": True}, "imbalance.unlabelled=True is not legal"),
            ({"unlabelled_head": 10}, "imbalance.unlabelled_head=10 needs imbalance.unlabelled"),
            ({"reversed": True}, "imbalance.reversed=true needs imbalance.unlabelled"),
            ({"reversed": "yes", "unlabelled": 2}, "imbalance.reversed='yes' is not legal"),
            ({"gamma": 10}, "unknown setting imbalance.gamma: choose one of labelled, labelled_head, "),
            (10, "imbalance=10 is not legal"),
        ],
    )
    def test_values(self, given: Any, message: str) -> None:
        with pytest.raises(UserError) as error:
            SemiSupervisedData(Digits(), imbalance=given)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("imbalance", "options", "message"),
        [
            ({"labelled": 10, "labelled_head": 500}, {}, "imbalance.labelled_head is too large: class 0 .* has 1"),
            ({"labelled": 100, "labelled_head": 50}, {}, "leaves class 8 .* without a label: give .*_head=100 or more"),
            ({"unlabelled": 2, "unlabelled_head": 900}, {"num_labels": 40}, "unlabelled_head is too large: class 0 "),
            ({"labelled": 2, "labelled_head": 4}, {"num_labels": 40}, "labels 25 images, but num_labels=40"),
            (
                {"labelled": 2, "labelled_head": 40},
                {"num_val": 10, "val_from": "labelled"},
                "val_from=labelled is not legal with imbalance",
            ),
            ({"unlabelled": 2}, {"split": Split(0, 1437, (0, 1), ())}, "a split and an imbalance both say"),
            ({"unlabelled": 2}, {"fold": 1}, "fold=1 and an imbalance both say"),
            ({"unlabelled": 2}, {}, "leaves no image to the unlabelled pool: class 0 "),
        ],
    )
    def test_pools_that_it_does_not_fit(self, imbalance: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            data_of(imbalance=imbalance, **options)
        assert "\n" not in str(error.value)

    def test_a_pool_of_unknown_classes(self) -> None:
        with pytest.raises(UserError, match=r"imbalance.unlabelled=2 needs the class of every image .* 360 of"):
            data_of(WithFurtherImages(), imbalance={"unlabelled": 2}, num_labels=40)
        # The labelled images alone can have a long tail there.
        data = data_of(WithFurtherImages(), imbalance={"labelled": 10, "labelled_head": 20})
        assert len(data.unlabelled) == 1437 + 360
