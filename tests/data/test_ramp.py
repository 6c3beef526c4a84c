"""Ramps: smaller batches and images in the first parts of a run, as pure functions of the batch's number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import digits_data

from layermatch.augment.resampling import resized
from layermatch.data.ramp import BatchSizes, Ramp, reduced
from layermatch.data.steps import RawBatch, TrainingSteps, ViewedSet
from layermatch.errors import UserError
from layermatch.functional.streams import shuffled_positions

RAMP = {"batch_size": [[0.25, 0.5]], "mu": [[0.1, 1], [0.5, 3]], "side": [[0.3, 0.5], [0.6, 0.75]]}
NUM = 40


def sizes(**changes: Any) -> BatchSizes:
    return BatchSizes(**({"batch_size": 8, "mu": 4, "ramp": Ramp(**RAMP), "num_batches": NUM} | changes))


def steps(data: Any, *, rank: int = 0, world_size: int = 1, batch_size: int = 8) -> TrainingSteps:
    weak, strong = (data.kinds[kind].num_draws for kind in ("weak", "strong"))
    return TrainingSteps(
        data.labelled, data.unlabelled, batch_size=batch_size, mu=4, seed=3, rank=rank, world_size=world_size,
        draws=([weak], [weak, strong]), ramp=Ramp(**RAMP), num_batches=NUM,
    )  # fmt: skip


def part_of(batch: RawBatch, name: str) -> ViewedSet:
    part = getattr(batch, name)
    assert part is not None
    return part


def test_a_value_holds_until_its_share_of_the_run() -> None:
    assert [sizes().of(batch) for batch in (0, 3, 4, 9, 10, 19, 20, NUM - 1, 10**6)] == [
        (4, 4), (4, 4), (4, 12), (4, 12), (8, 24), (8, 24), (8, 32), (8, 32), (8, 32)
    ]  # fmt: skip
    shape = (1, 8, 12)
    assert [sizes().image_size(batch, shape) for batch in (0, 11, 12, 23, 24)] == [
        (4, 6), (4, 6), (6, 9), (6, 9), None
    ]  # fmt: skip


@pytest.mark.parametrize("ramp", [{}, RAMP, {"batch_size": [[1, 0.3]]}, {"mu": [[0.004, 9], [0.99, 1]]}])
def test_the_images_before_a_batch_are_those_of_all_batches_before(ramp: dict[str, Any]) -> None:
    made = sizes(ramp=Ramp(**ramp))
    total = np.zeros(2, int)
    for batch in range(NUM + 5):
        assert made.images_before(batch) == tuple(total), batch
        total += made.of(batch)


def test_a_batch_keeps_a_labelled_image() -> None:
    assert sizes(ramp=Ramp(batch_size=[[1, 0.01]])).of(0) == (1, 4)


def test_no_image_is_passed_over_or_seen_twice() -> None:
    data = digits_data()
    made = steps(data)
    for name, stream, images in (("labelled", 10, data.labelled), ("unlabelled", 20, data.unlabelled)):
        seen = torch.cat([part_of(made[step], name).indices for step in range(NUM)])
        expected = shuffled_positions(seed=3, stream=stream, start=0, count=len(seen), size=len(images))
        assert seen.tolist() == expected.tolist()


def test_two_processes_share_the_batches_of_one() -> None:
    data = digits_data()
    whole, halves = steps(data), [steps(data, rank=rank, world_size=2, batch_size=4) for rank in (0, 1)]
    for step in (0, 3, 4, 9, 10, 20, NUM - 1):
        for name in ("labelled", "unlabelled"):
            one, parts = part_of(whole[step], name), [part_of(half[step], name) for half in halves]
            assert torch.equal(torch.cat([part.indices for part in parts]), one.indices)
            for view, draws in enumerate(one.draws):
                assert torch.equal(torch.cat([part.draws[view] for part in parts]), draws)
        assert whole[step].size == halves[0][step].size == halves[1][step].size


def test_views_are_made_of_reduced_images() -> None:
    data = digits_data(ramp=RAMP, num_batches=NUM)
    raw = data.training_steps()[0]
    batch = data.make_views(raw)
    assert batch.unlabelled is not None
    assert {tuple(view.shape[1:]) for view in batch.unlabelled.views.values()} == {(1, 4, 4)}
    small = raw.labelled._replace(images=resized(raw.labelled.images, size=(4, 4)))
    weak = data.kinds["weak"](small.images, small.draws[0])
    assert torch.equal(batch.labelled.views["weak"], data.normalise(weak))
    assert data.batch_of_step(NUM - 1).labelled.views["weak"].shape[1:] == (1, 8, 8)


def test_images_on_the_device_give_the_same_batches() -> None:
    host, device = (digits_data(ramp=RAMP, num_batches=NUM, storage=storage) for storage in ("ram", "device"))
    for step in (0, 12, NUM - 1):
        expected = host.batch_of_step(step)
        batch = device.on_after_batch_transfer(device.training_steps(read_images=False)[step], 0)
        for part in ("labelled", "unlabelled"):
            for name, view in getattr(expected, part).views.items():
                assert torch.equal(view, getattr(batch, part).views[name])


def test_resized_is_the_whole_image_through_pils_filter() -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 3, 16, 12), dtype=torch.uint8, generator=generator)
    ours = resized(images, size=(12, 9))
    for image, made in zip(images, ours, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((9, 12), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        assert (made.int() - expected.int()).abs().max() <= 2


def test_a_run_whose_length_nobody_knows_has_no_ramp() -> None:
    with pytest.raises(UserError, match=r"^ramp is of shares of a run, and its length is not known"):
        digits_data(ramp=RAMP).batch_of_step(0)
    assert digits_data(ramp=RAMP, num_batches=NUM).batch_of_step(0).labelled.label.shape == (4,)


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        (3, "ramp=3 is not legal"),
        ({"size": []}, "unknown setting ramp.size"),
        ({"mu": 3}, "ramp.mu=3 is not legal: give a list of"),
        ({"mu": "poison"}, "ramp.mu='poison' is not legal"),
        ({"mu": [0.5, 3]}, r"ramp.mu=\[0.5, 3\] is not legal"),
        ({"mu": [[0.5, 3, 1]]}, "ramp.mu=.* is not legal"),
        ({"mu": [[0, 3]]}, "ramp.mu: UNTIL=0 is not legal"),
        ({"mu": [[1.5, 3]]}, "ramp.mu: UNTIL=1.5 is not legal"),
        ({"mu": [[0.5, 3], [0.5, 4]]}, "ramp.mu=.* is not legal: .* rising"),
        ({"mu": [[0.5, 2.5]]}, "ramp.mu=2.5 is not legal"),
        ({"mu": [[0.5, 0]]}, "ramp.mu=0 is not legal"),
        ({"batch_size": [[0.5, 2]]}, "ramp.batch_size=2 is not legal"),
        ({"side": [[0.5, 0]]}, "ramp.side=0 is not legal"),
        ({"side": [[0.5, "half"]]}, "ramp.side='half' is not legal"),
    ],
)
def test_an_illegal_ramp_is_refused(ramp: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Ramp.of(ramp)


def test_no_ramp_is_an_empty_one() -> None:
    assert Ramp.of(None).is_empty
    assert Ramp.of({"batch_size": None, "mu": None, "side": None}) == Ramp()
    assert not Ramp.of({"side": [[0.5, 0.5]]}).is_empty
    assert reduced((3, 3, 3), 0.01) == (1, 1)
