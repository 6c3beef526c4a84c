"""A seeded part of the unlabelled pool, of any source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import digits_data

from layermatch.data import SemiSupervisedData
from layermatch.data.images import ArrayImages
from layermatch.data.sources import ImageSet, SourceData
from layermatch.errors import UserError


class Numbered:
    """60 labelled images and 100 further ones; the pixel of each is its number, and so is its name."""

    def load(self) -> SourceData:
        pixels = np.arange(200, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 8, 8), np.uint8)
        return SourceData(
            classes=("even", "odd"),
            labelled=ImageSet(ArrayImages(pixels[:60]), np.arange(60) % 2),
            unlabelled=ImageSet(ArrayImages(pixels[60:160]), np.full(100, -1)),
            test=ImageSet(ArrayImages(pixels[160:]), np.arange(40) % 2),
            image_ids={"labelled": tuple(map(str, range(60))), "unlabelled": tuple(map(str, range(60, 160)))},
        )


def numbered(**options: Any) -> SemiSupervisedData:
    given: dict[str, Any] = {"num_labels": 4, "num_val": 6, "batch_size": 4, "mu": 2, "mean": (0.5,), "std": (0.5,)}
    data = SemiSupervisedData(Numbered(), **given | {"seed": 0} | options)
    data.setup()
    return data


def pool_of(data: SemiSupervisedData) -> set[int]:
    return set(data.unlabelled.images.read(np.arange(len(data.unlabelled)))[:, 0, 0, 0].tolist())


def labelled_of(data: SemiSupervisedData) -> set[int]:
    return set(data.labelled.images.read(np.arange(len(data.labelled)))[:, 0, 0, 0].tolist())


def test_the_pool_has_so_many_images_the_labelled_ones_among_them() -> None:
    whole = numbered()
    for limit in (4, 5, 50, 154):
        data = numbered(pool_limit=limit)
        pool = pool_of(data)
        assert len(pool) == len(data.unlabelled) == limit
        assert labelled_of(data) == labelled_of(whole) <= pool <= pool_of(whole)
        assert set(data.split.validation) == set(whole.split.validation)
        names = data.content.image_ids.get("unlabelled", ())
        assert {int(name) for name in names} == {number for number in pool if number >= 60}
    assert pool_of(numbered(pool_limit=154)) == pool_of(whole)


def test_a_smaller_part_is_of_the_larger_and_another_seed_draws_another() -> None:
    parts = [pool_of(numbered(pool_limit=limit)) for limit in (20, 40, 90)]
    assert parts[0] < parts[1] < parts[2]
    assert pool_of(numbered(pool_limit=40)) == parts[1]
    split = numbered().split
    assert pool_of(numbered(pool_limit=40, seed=3, split=split, num_labels=None, num_val=0)) == parts[1]
    assert pool_of(numbered(pool_limit=40, seed=1)) != parts[1]


def test_it_is_drawn_evenly_from_both_parts_of_the_pool() -> None:
    counts = [sum(number >= 60 for number in pool_of(numbered(pool_limit=79, seed=seed))) for seed in range(12)]
    # Of 75 that are drawn, 100 of 150 are further ones: 50 in the mean, with a deviation of 2.9 for one seed.
    assert abs(np.mean(counts) - 50) < 4 * 2.9 / np.sqrt(12)


def test_labels_tables_and_batches_are_of_the_part() -> None:
    data = numbered(pool_limit=30)
    batch = data.training_steps()[11]
    assert batch.unlabelled is not None
    assert int(batch.unlabelled.indices.max()) < 30
    pixels = data.unlabelled.images.read(batch.unlabelled.indices.numpy())
    assert torch.equal(torch.from_numpy(pixels), batch.unlabelled.images)
    known = data.pool_labels
    assert int((known >= 0).sum()) == 4
    numbers = data.unlabelled.images.read(np.flatnonzero(known.numpy() >= 0))[:, 0, 0, 0]
    assert set(numbers.tolist()) == labelled_of(data)
    assert torch.equal(data.pool_labels_of(torch.tensor([29, 3, 3])), known[torch.tensor([29, 3, 3])])


def test_on_the_device_there_is_the_same_part() -> None:
    plain, on_device = (digits_data(pool_limit=300, storage=storage) for storage in ("ram", "device"))
    for data in (plain, on_device):
        data.setup()
    batch = on_device.on_after_batch_transfer(on_device.training_steps(read_images=False)[5], 0)
    assert torch.equal(batch.unlabelled.views["strong"], plain.batch_of_step(5).unlabelled.views["strong"])
    assert torch.equal(batch.labelled.views["weak"], plain.batch_of_step(5).labelled.views["weak"])


def test_what_leaks_is_left_out_before_the_part_is_drawn() -> None:
    class Leaking(Numbered):
        def load(self) -> SourceData:
            content = super().load()
            test = np.concatenate(
                [content.unlabelled.images.read(np.arange(50)), content.labelled.images.read(np.array([7, 8]))]
            )
            labels = np.zeros(52, np.int64)
            return SourceData(
                classes=content.classes, labelled=content.labelled, unlabelled=content.unlabelled,
                test=ImageSet(ArrayImages(test), labels),
            )  # fmt: skip

    data = SemiSupervisedData(
        Leaking(), num_labels=4, num_val=6, mean=(0.5,), std=(0.5,), seed=0, leaks="remove", pool_limit=90
    )
    data.setup()
    pool = pool_of(data)
    assert len(pool) == 90
    assert not pool & {*range(60, 110), 7, 8}
    reported = SemiSupervisedData(Leaking(), num_labels=4, mean=(0.5,), std=(0.5,), seed=0, pool_limit=90)
    reported.setup()
    leaking = pool_of(reported) & {*range(60, 110), 7, 8} - labelled_of(reported)
    assert reported.leaks_found.unlabelled["test"] == len(leaking) > 0


@pytest.mark.parametrize("limit", [3, 155])
def test_a_part_that_cannot_be_is_one_line(limit: int) -> None:
    with pytest.raises(UserError) as caught:
        numbered(pool_limit=limit)
    assert str(caught.value) == (
        f"pool_limit={limit} is not legal: give a whole number from 4, the labelled images, which are in the pool too, "
        "to 154, all of it, or null for all"
    )
    with pytest.raises(UserError, match=r"^pool_limit=0 is not legal: give a whole number, at least 1$"):
        numbered(pool_limit=0)
