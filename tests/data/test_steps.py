"""Random access to raw batches. Every image here tells its own position: its first two pixels are its number."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from layermatch.data.images import ArrayImages
from layermatch.data.sources import ImageSet
from layermatch.data.steps import EvalSteps, RawBatch, RawEvalBatch, StepsFrom, TrainingSteps, ViewedSet
from layermatch.functional.streams import shuffled_positions, uniforms

LABELLED, UNLABELLED = 12, 50


def image_set(num: int, *, first_label: int = 0) -> ImageSet:
    pixels = np.zeros((num, 1, 4, 4), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.divmod(np.arange(num), 256)
    return ImageSet(images=ArrayImages(pixels), labels=np.arange(num) % 3 + first_label)


def training_steps(
    *, batch_size: int = 4, mu: int = 3, seed: int = 0, rank: int = 0, world_size: int = 1, use_unlabelled: bool = True
) -> TrainingSteps:
    return TrainingSteps(
        image_set(LABELLED),
        image_set(UNLABELLED, first_label=-1) if use_unlabelled else None,
        batch_size=batch_size,
        mu=mu,
        seed=seed,
        rank=rank,
        world_size=world_size,
        draws=([3], [3, 5]),
    )


def tensors(batch: RawBatch) -> list[torch.Tensor]:
    parts = [batch.labelled] if batch.unlabelled is None else [batch.labelled, batch.unlabelled]
    return [tensor for part in parts for tensor in (part.images, part.label, part.indices, *part.draws)]


def equal(first: RawBatch, second: RawBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def unlabelled_of(batch: RawBatch) -> ViewedSet:
    assert batch.unlabelled is not None
    return batch.unlabelled


def numbers(images: torch.Tensor) -> list[int]:
    return [256 * int(image[0, 0, 0]) + int(image[0, 0, 1]) for image in images]


# ----------------------------------------------------------------------------------------------------- TrainingSteps


@pytest.mark.parametrize("step", [0, 1, 7, 2**30])
def test_a_batch_has_the_images_labels_and_draws_that_it_names(step: int) -> None:
    batch = training_steps()[step]
    unlabelled = unlabelled_of(batch)
    for part, size, first_label in ((batch.labelled, 4, 0), (unlabelled, 12, -1)):
        assert part.images.shape == (size, 1, 4, 4)
        assert part.images.dtype == torch.uint8
        assert (part.label.dtype, part.indices.dtype) == (torch.int64, torch.int64)
        assert numbers(part.images) == part.indices.tolist()
        assert part.label.tolist() == [i % 3 + first_label for i in part.indices.tolist()]
        assert all(view.dtype == torch.float32 for view in part.draws)
    assert [tuple(view.shape) for view in batch.labelled.draws] == [(4, 3)]
    assert [tuple(view.shape) for view in unlabelled.draws] == [(12, 3), (12, 5)]


def test_no_unlabelled_images_where_none_are_used() -> None:
    without = training_steps(use_unlabelled=False)[3]
    assert without.unlabelled is None
    # And the labelled ones are those that an algorithm with unlabelled images gets.
    assert torch.equal(without.labelled.images, training_steps()[3].labelled.images)
    assert torch.equal(without.labelled.draws[0], training_steps()[3].labelled.draws[0])


def test_steps_walk_through_the_streams_in_order() -> None:
    steps = [training_steps(seed=5)[step] for step in range(6)]
    positions = torch.cat([step.labelled.indices for step in steps]).numpy()
    np.testing.assert_array_equal(positions, shuffled_positions(seed=5, stream=10, start=0, count=24, size=LABELLED))
    positions = torch.cat([unlabelled_of(step).indices for step in steps]).numpy()
    np.testing.assert_array_equal(positions, shuffled_positions(seed=5, stream=20, start=0, count=72, size=UNLABELLED))
    streams = {11: [step.labelled.draws[0] for step in steps]}
    streams |= {21 + view: [unlabelled_of(step).draws[view] for step in steps] for view in (0, 1)}
    for stream, draws in streams.items():
        table = torch.cat(draws).numpy()
        expected = uniforms(seed=5, stream=stream, start=0, count=len(table), width=table.shape[1])
        np.testing.assert_array_equal(table, expected)


def test_every_image_comes_once_an_epoch() -> None:
    steps = [training_steps(batch_size=4)[step] for step in range(3)]
    assert sorted(torch.cat([step.labelled.indices for step in steps]).tolist()) == list(range(LABELLED))
    steps = [training_steps(batch_size=5, mu=2)[step] for step in range(5)]
    assert sorted(torch.cat([unlabelled_of(step).indices for step in steps]).tolist()) == list(range(UNLABELLED))


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    steps = training_steps()
    first = steps[7]
    _ = steps[0], steps[8]
    assert equal(steps[7], first)
    assert equal(training_steps()[7], first)
    assert not equal(steps[8], first)
    assert not equal(training_steps(seed=1)[7], first)


def test_the_two_views_draw_different_numbers() -> None:
    weak, strong = unlabelled_of(training_steps()[0]).draws
    assert not torch.isin(weak, strong).any()
    assert not torch.isin(weak, training_steps()[0].labelled.draws[0]).any()


@pytest.mark.parametrize("world_size", [2, 3, 6])
@pytest.mark.parametrize("step", [0, 1, 9, 10**6])
def test_ranks_together_see_what_one_rank_would(world_size: int, step: int) -> None:
    alone = training_steps(batch_size=6)[step]
    ranks = [
        training_steps(batch_size=6 // world_size, rank=rank, world_size=world_size)[step] for rank in range(world_size)
    ]
    together = [torch.cat(parts) for parts in zip(*map(tensors, ranks), strict=True)]
    for expected, got in zip(tensors(alone), together, strict=True):
        assert torch.equal(got, expected)


def test_a_batch_larger_than_the_set_repeats_images_evenly() -> None:
    batch = training_steps(batch_size=30)[0]
    times = torch.bincount(batch.labelled.indices, minlength=LABELLED)
    assert set(times.tolist()) == {2, 3}
    rows = {tuple(row) for row in batch.labelled.draws[0].tolist()}
    assert len(rows) == 30  # each repetition is another view


# --------------------------------------------------------------------------------------------------------- EvalSteps


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num", [1, 5, 21, 300])
@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_every_image_is_evaluated_exactly_once(world_size: int, num: int, batch_size: int) -> None:
    images = image_set(num)
    seen: list[int] = []
    for rank in range(world_size):
        steps = EvalSteps(images, batch_size=batch_size, rank=rank, world_size=world_size)
        batches = [steps[i] for i in range(len(steps))]
        for batch in batches:
            assert isinstance(batch, RawEvalBatch)
            assert (1 if rank < num else 0) <= len(batch.images) <= batch_size
            assert numbers(batch.images) == batch.indices.tolist()
            assert batch.label.tolist() == [i % 3 for i in batch.indices.tolist()]
        sizes = [len(batch.images) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == max(-(-sum(sizes) // batch_size), 1)  # no more batches than needed
        seen.extend(i for batch in batches for i in batch.indices.tolist())
    assert sorted(seen) == list(range(num))


def test_a_few_batches_stand_for_a_sorted_set() -> None:
    steps = EvalSteps(image_set(300), batch_size=100, rank=0, world_size=1)
    assert steps[0].indices.tolist() == list(range(0, 300, 3))


def test_a_rank_beyond_the_set_has_one_batch_without_images() -> None:
    ranks = [EvalSteps(image_set(2), batch_size=4, rank=rank, world_size=4) for rank in range(4)]
    assert [[len(steps[i].images) for i in range(len(steps))] for steps in ranks] == [[1], [1], [0], [0]]
    assert ranks[3][0].images.shape == (0, 1, 4, 4)


# --------------------------------------------------------------------------------------------------------- StepsFrom


@pytest.mark.parametrize("first", [0, 17, 2**40])
def test_steps_go_on_from_any_step(first: int) -> None:
    steps = StepsFrom(first)
    assert list(islice(steps, 5)) == list(range(first, first + 5))
    assert list(islice(steps, 2)) == [first, first + 1]  # each iterator starts afresh


@pytest.mark.parametrize("first", [0, 17])
def test_standing_still_repeats_step_0(first: int) -> None:
    assert list(islice(StepsFrom(first, stand_still=True), 4)) == [0, 0, 0, 0]
