from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from layermatch import UserError
from layermatch.augment import StrongView, WeakView
from layermatch.data import Batch, EvalBatch, SemiSupervisedData, Split, Unlabelled, Views
from layermatch.data.images import ArrayImages
from layermatch.data.sources import Digits, ImageSet, Source, SourceData
from layermatch.data.steps import RawBatch

K = 3
FOLD_SIZE = 6


class InMemory:
    """A source like STL-10: a labelled pool with folds, unlabelled images of unknown class, a test set; 3x8x8."""

    def __init__(self, *, num_pool: int = 60, num_more: int = 30, num_test: int = 20, num_folds: int = 3) -> None:
        self.num_pool = num_pool
        self.num_more = num_more
        self.num_test = num_test
        self.num_folds = num_folds
        self.num_loads = 0

    def load(self) -> SourceData:
        self.num_loads += 1
        rng = np.random.default_rng(0)

        def images(num: int) -> ArrayImages:
            return ArrayImages(rng.integers(0, 256, (num, 3, 8, 8), np.uint8))

        def known(num: int) -> ImageSet:
            return ImageSet(images=images(num), labels=np.arange(num) % K)

        more = ImageSet(images=images(self.num_more), labels=np.full(self.num_more, -1))
        return SourceData(
            classes=("cat", "dog", "fox"),
            labelled=known(self.num_pool),
            unlabelled=more if self.num_more else None,
            test=known(self.num_test) if self.num_test else None,
            # Folds overlap, and are not balanced: 3 of the first class, 2 of the second and 1 of the third.
            folds=tuple(np.array([0, 3, 6, 1, 4, 2]) + 6 * f for f in range(self.num_folds)),
        )


def make(source: Source | None = None, *, flip: bool = True, **changes: Any) -> SemiSupervisedData:
    options: dict[str, Any] = {
        "weak": WeakView(flip=flip),
        "strong": StrongView(flip=flip),
        "num_labels": 12,
        "batch_size": 4,
        "mu": 3,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.25, 0.3),
        "seed": 0,
    }
    return SemiSupervisedData(source or InMemory(), **options | changes)


def ready(source: Source | None = None, **changes: Any) -> SemiSupervisedData:
    data = make(source, **changes)
    data.setup()
    return data


def digits(**changes: Any) -> SemiSupervisedData:
    return ready(Digits(), **{"num_labels": 40, "mean": (0.305,), "std": (0.376,), "flip": False} | changes)


def unlabelled_of(batch: Batch) -> Unlabelled:
    assert batch.unlabelled is not None
    return batch.unlabelled


def tensors(batch: Batch) -> list[Tensor]:
    parts = [batch.labelled] if batch.unlabelled is None else [batch.labelled, batch.unlabelled]
    return [tensor for part in parts for tensor in (*part.views.values(), *part[1:])]


def equal(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def pixels(images: ImageSet, indices: Tensor | None = None) -> Tensor:
    index = np.arange(len(images)) if indices is None else indices.numpy()
    return torch.from_numpy(images.images.read(index))


# --------------------------------------------------------------------------------------------------------------- sets


def test_labelled_images_are_those_of_the_split_and_also_in_the_unlabelled_pool() -> None:
    data = digits(num_labels=40, num_val=50)
    content = Digits().load()
    everything = pixels(content.labelled)
    assert torch.equal(pixels(data.labelled), everything[list(data.split.labelled)])
    np.testing.assert_array_equal(data.labelled.labels, content.labelled.labels[list(data.split.labelled)])
    pool = sorted(set(range(1437)) - set(data.split.validation))
    assert set(data.split.labelled) <= set(pool)
    assert torch.equal(pixels(data.unlabelled), everything[pool])
    known = np.where(np.isin(pool, data.split.labelled), -1, content.labelled.labels[pool])
    np.testing.assert_array_equal(data.unlabelled.labels, known)
    assert data.validation is not None
    assert torch.equal(pixels(data.validation), everything[list(data.split.validation)])
    np.testing.assert_array_equal(data.validation.labels, content.labelled.labels[list(data.split.validation)])


@pytest.mark.parametrize("val_from", ["labelled", "pool"])
def test_validation_images_are_in_neither_training_set(val_from: str) -> None:
    data = ready(num_val=9, val_from=val_from)
    assert data.validation is not None

    def as_set(images: ImageSet) -> set[bytes]:
        return {image.numpy().tobytes() for image in pixels(images)}

    labelled, unlabelled, validation = map(as_set, (data.labelled, data.unlabelled, data.validation))
    assert len(validation) == 9
    assert not validation & labelled
    assert not validation & unlabelled
    assert labelled <= unlabelled
    assert len(labelled) == (3 if val_from == "labelled" else 12)
    assert len(unlabelled) == 60 - 9 + 30


def test_further_images_join_the_unlabelled_pool_and_their_classes_stay_unknown() -> None:
    data = ready()
    content = InMemory().load()
    assert content.unlabelled is not None
    assert torch.equal(pixels(data.unlabelled), torch.cat([pixels(content.labelled), pixels(content.unlabelled)]))
    known = [-1 if i in data.split.labelled else i % K for i in range(60)]
    assert data.unlabelled.labels.tolist() == known + [-1] * 30


def test_where_labelled_images_alone_have_a_class_none_of_the_pool_is_known() -> None:
    """A network knows the images that it is trained on: they say nothing of the pseudo-labels of others."""
    data = ready(num_labels=None)
    assert len(data.labelled) == 60
    assert set(data.unlabelled.labels.tolist()) == {-1}
    assert data.labelled.labels.tolist() == (np.arange(60) % K).tolist()


@pytest.mark.parametrize("has_trainer", [True, False])
def test_memory_is_pinned_for_a_graphics_card_alone(has_trainer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To pin it takes some of the card's own, also where a run computes on the processor."""
    data = ready()
    if has_trainer:
        data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data._is_on_gpu() is not has_trainer


def test_the_source_is_read_once() -> None:
    source = InMemory()
    data = make(source)
    for stage in ("fit", "validate", "test", None):
        data.setup(stage)
    assert source.num_loads == 1


def test_what_is_known_after_setup() -> None:
    data = make()
    with pytest.raises(UserError, match=r"call setup\(\) before asking for the data"):
        _ = data.classes
    data.setup()
    assert data.classes == ("cat", "dog", "fox")
    assert data.image_shape == (3, 8, 8)
    assert data.test is not None
    assert len(data.test) == 20


# -------------------------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("fold", [0, 2])
@pytest.mark.parametrize("num_labels", [None, FOLD_SIZE])
def test_a_fold_is_the_labelled_set(fold: int, num_labels: int | None) -> None:
    data = ready(fold=fold, num_labels=num_labels)
    assert list(data.split.labelled) == [6 * fold + i for i in (0, 1, 2, 3, 4, 6)]
    content = InMemory().load()
    assert torch.equal(pixels(data.labelled), pixels(content.labelled)[list(data.split.labelled)])
    assert len(data.unlabelled) == 90
    assert data.validation is None


def test_a_folds_validation_images_come_from_the_rest_of_the_pool() -> None:
    data = ready(fold=1, num_labels=None, num_val=12)
    assert data.split.pool_size == 60
    assert len(data.split.labelled) == FOLD_SIZE
    assert len(set(data.split.validation)) == 12
    assert not set(data.split.labelled) & set(data.split.validation)
    counts = np.bincount([i % K for i in data.split.validation], minlength=K)
    assert (abs(counts - 12 * np.array([17, 18, 19]) / 54) < 1).all()
    assert data.validation is not None
    assert len(data.unlabelled) == 60 - 12 + 30
    assert ready(fold=1, num_labels=None, num_val=12).split == data.split
    assert ready(fold=1, num_labels=None, num_val=12, seed=1).split.validation != data.split.validation


def test_all_but_a_fold_may_be_held_out() -> None:
    data = ready(fold=0, num_labels=None, num_val=54, views=Views())
    assert sorted((*data.split.labelled, *data.split.validation)) == list(range(60))


def test_a_source_with_folds_may_be_split_without_them() -> None:
    data = ready(num_labels=12)
    assert np.bincount(data.labelled.labels).tolist() == [4, 4, 4]


# ----------------------------------------------------------------------------------------------------- splits to reuse


@pytest.mark.parametrize("num_labels", [None, 40])
@pytest.mark.parametrize("kind", ["path", "text", "split"])
def test_a_split_can_be_used_again(kind: str, num_labels: int | None, tmp_path: Path) -> None:
    first = digits(num_labels=40, num_val=30, seed=3)
    path = tmp_path / "split.json"
    first.save_split(path)
    given = {"path": path, "text": str(path), "split": first.split}[kind]
    # Whatever else is asked for, the labels stay the same.
    second = digits(num_labels=num_labels, num_val=0, seed=4, split=given)
    assert second.split == first.split
    assert torch.equal(pixels(second.labelled), pixels(first.labelled))
    assert torch.equal(pixels(second.unlabelled), pixels(first.unlabelled))


def test_validation_images_of_a_split_count_as_they_did_when_it_was_drawn(tmp_path: Path) -> None:
    first = ready(num_labels=12, num_val=6, val_from="labelled")
    first.save_split(tmp_path / "split.json")
    again = ready(num_labels=12, num_val=6, val_from="labelled", split=tmp_path / "split.json")
    assert again.split == first.split
    assert len(again.labelled) == 6


WRONG_SPLITS = {
    "another pool": (Split(0, 61, (0, 1), ()), "is of a pool of 61 images, but this data set has 60"),
    "outside": (Split(0, 60, (0, 60), ()), "is of a pool of 60 images, but this data set has 60"),
    "overlap": (Split(0, 60, (0, 1), (1,)), "names an image twice"),
    "no labels": (Split(0, 60, (), (1,)), "has no labelled images: give a split with at least one"),
    "other labels": (
        Split(0, 60, (0, 1, 2), (3, 4, 5)),
        r"has 3 labelled images, but num_labels=12: give num_labels=3, or null$",
    ),
}


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("name", WRONG_SPLITS)
def test_a_split_of_another_data_set_is_refused(name: str, as_file: bool, tmp_path: Path) -> None:
    split, message = WRONG_SPLITS[name]
    split.save(tmp_path / "split.json")
    data = make(split=tmp_path / "split.json" if as_file else split)
    with pytest.raises(UserError, match=message):
        data.setup()


# ----------------------------------------------------------------------------------------------------------- refusals

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size": ({"batch_size": 0}, r"batch_size=0 is not legal: give a whole number, at least 1"),
    "mu": ({"mu": 0}, r"mu=0 is not legal: give a whole number, at least 1"),
    "half a mu": ({"mu": 0.5}, r"mu=0\.5 is not legal"),
    "eval_batch_size": ({"eval_batch_size": 0}, r"eval_batch_size=0 is not legal"),
    "num_workers": ({"num_workers": -1}, r"num_workers=-1 is not legal"),
    "overfit": ({"overfit": "yes"}, r"overfit='yes' is not legal: choose true or false"),
    "mean": ({"mean": (0.5, 0.5, 128)}, r"mean=128 is not legal: give a number, at least 0 and at most 1"),
    "std": ({"std": (0.5, 0.5, 0)}, r"std=0 is not legal: give a number, above 0"),
    "one number": ({"mean": 0.5}, r"mean=0\.5 is not legal: give a list with one number for each channel"),
    "a word": ({"std": "0.5"}, r"std='0\.5' is not legal: give a list with one number for each channel"),
    "grey mean": ({"mean": (0.5,)}, r"mean=\[0\.5\] is not legal: give a number for each of the 3 channels"),
    "grey std": ({"std": (0.5,)}, r"std=\[0\.5\] is not legal: give a number for each of the 3 channels"),
    "num_labels": ({"num_labels": 63}, r"num_labels=63 is too many for a pool of 60 images"),
    "num_val": ({"num_val": 60}, r"num_val=60 is more than can be held out"),
    "seed": ({"seed": -1}, r"seed=-1 is not legal"),
    "no file": ({"split": "no/such/split.json"}, r"split=no/such/split\.json is not a split file"),
    "fold too large": (
        {"fold": 3, "num_labels": None},
        r"fold=3 is not legal: give a whole number, at least 0 and at most 2",
    ),
    "fold below 0": ({"fold": -1, "num_labels": None}, r"fold=-1 is not legal"),
    "fold no number": ({"fold": "first", "num_labels": None}, r"fold='first' is not legal"),
    "labels of a fold": (
        {"fold": 0, "num_labels": 12},
        r"fold=0 has 6 labels: give num_labels=6, not 12",
    ),
    "val of a fold": (
        {"fold": 0, "num_labels": None, "num_val": 55},
        r"num_val=55 is more than can be held out: 54 images of the training pool are not in the fold of 6",
    ),
    "split and fold": (
        {"fold": 0, "num_labels": None, "split": Split(0, 60, (0,), ())},
        r"a split and fold=0 both say which images are labelled: give split=null or fold=null$",
    ),
    "no folds": (
        {"source": InMemory(num_folds=0), "fold": 0},
        r"fold=0: this data set has no predefined folds: give fold=null",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(UserError, match=f"^{message}"):
        ready(**changes)


# ------------------------------------------------------------------------------------------------- batches of training


@pytest.mark.parametrize("step", [0, 5, 1234])
def test_a_batch_pairs_two_views_of_each_image(step: int) -> None:
    data = ready()
    batch, raw = data.batch_of_step(step), data.training_steps()[step]
    unlabelled = unlabelled_of(batch)
    assert raw.unlabelled is not None
    assert (list(batch.labelled.views), list(unlabelled.views)) == (["weak"], ["weak", "strong"])
    assert batch.labelled.views["weak"].shape == (4, 3, 8, 8)
    assert all(view.shape == (12, 3, 8, 8) for view in unlabelled.views.values())
    assert all(view.dtype == torch.float32 for view in (*batch.labelled.views.values(), *unlabelled.views.values()))
    labelled_pixels = pixels(data.labelled, batch.labelled.indices)
    unlabelled_pixels = pixels(data.unlabelled, unlabelled.indices)
    weak, strong = data.kinds["weak"], data.kinds["strong"]
    assert torch.equal(batch.labelled.views["weak"], data.normalise(weak(labelled_pixels, raw.labelled.draws[0])))
    assert torch.equal(unlabelled.views["weak"], data.normalise(weak(unlabelled_pixels, raw.unlabelled.draws[0])))
    assert torch.equal(unlabelled.views["strong"], data.normalise(strong(unlabelled_pixels, raw.unlabelled.draws[1])))


@pytest.mark.parametrize("step", [0, 7])
def test_labels_are_those_of_the_images(step: int) -> None:
    data = ready()
    batch = data.batch_of_step(step)
    unlabelled = unlabelled_of(batch)
    content = InMemory().load()
    positions = np.array(data.split.labelled)[batch.labelled.indices.numpy()]
    assert batch.labelled.label.tolist() == (positions % K).tolist()
    assert torch.equal(pixels(data.labelled, batch.labelled.indices), pixels(content.labelled)[positions])
    # No image is held out: the first 60 of the unlabelled pool are the labelled pool, in its order.
    known = [i < 60 and i not in data.split.labelled for i in range(90)]
    expected = [i % K if known[i] else -1 for i in unlabelled.indices.tolist()]
    assert unlabelled.hidden_label.tolist() == expected
    assert -1 in expected
    assert {0, 1, 2} <= set(expected)


def test_hidden_labels_are_right_where_images_are_held_out() -> None:
    data = ready(num_val=9)
    content = InMemory().load()
    by_pixels = {image.numpy().tobytes(): i for i, image in enumerate(pixels(content.labelled))}
    unlabelled = unlabelled_of(data.batch_of_step(3))
    originals = pixels(data.unlabelled, unlabelled.indices)
    positions = [by_pixels.get(image.numpy().tobytes()) for image in originals]
    unknown = {None, *data.split.labelled}
    assert unlabelled.hidden_label.tolist() == [-1 if i in unknown else i % K for i in positions]


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    data = ready()
    first = data.batch_of_step(7)
    torch.rand(5)  # the state of torch's own generator does not matter
    data.batch_of_step(8)
    assert equal(data.batch_of_step(7), first)
    assert equal(ready().batch_of_step(7), first)
    assert not equal(data.batch_of_step(8), first)
    other = ready(seed=1, split=data.split).batch_of_step(7)
    assert all(not torch.equal(a, b) for a, b in zip(tensors(other), tensors(first), strict=True))


def test_images_too_small_for_their_views_name_the_argument() -> None:
    data = ready(weak=WeakView(pad=0.95))
    with pytest.raises(UserError, match=r"^images of 8x8 are too small for pad=0\.95"):
        data.batch_of_step(0)


def test_an_algorithm_without_unlabelled_images_gets_none() -> None:
    batch, with_unlabelled = ready(views=Views()).batch_of_step(3), ready().batch_of_step(3)
    assert batch.unlabelled is None
    assert torch.equal(batch.labelled.views["weak"], with_unlabelled.labelled.views["weak"])


def trainer(*, devices: int = 1, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"enable_checkpointing": False} | options,
    )


def as_rank(data: SemiSupervisedData, rank: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give ``data`` the Trainer that process ``rank`` would have."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # Lightning sets it for the whole process; here it is put back
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    data.trainer = trainer(devices=world_size)
    assert (data.trainer.global_rank, data.trainer.world_size) == (rank, world_size)


@pytest.mark.parametrize("step", [0, 11])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_what_one_rank_would(world_size: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = ready(batch_size=6).batch_of_step(step)
    batches = []
    for rank in range(world_size):
        data = ready(batch_size=6 // world_size)
        as_rank(data, rank, world_size, monkeypatch)
        batches.append(data.batch_of_step(step))
    together = [torch.cat(parts) for parts in zip(*map(tensors, batches), strict=True)]
    for expected, got in zip(tensors(alone), together, strict=True):
        assert torch.equal(got, expected)


# ------------------------------------------------------------------------------------------------------------ loaders


def loaded(data: SemiSupervisedData, count: int) -> Iterator[Batch]:
    for raw in islice(data.train_dataloader(), count):
        assert isinstance(raw, RawBatch)
        batch = data.on_after_batch_transfer(raw, 0)
        assert isinstance(batch, Batch)
        yield batch


@pytest.mark.parametrize("num_workers", [None, 0, 2])
def test_the_loader_gives_the_batches_of_random_access(num_workers: int | None) -> None:
    data = ready(num_workers=num_workers)
    loader = data.train_dataloader()
    assert loader.num_workers == (num_workers or 0)
    for step, batch in enumerate(loaded(data, 5)):
        assert equal(batch, data.batch_of_step(step))


def test_overfitting_repeats_the_batch_of_step_0() -> None:
    data = ready(overfit=True)
    for batch in loaded(data, 3):
        assert equal(batch, ready().batch_of_step(0))


class Recorder(LightningModule):
    """Learns nothing of use, but keeps every batch that the Trainer hands it."""

    def __init__(self, accumulate: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate = accumulate
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[Batch] = []

    @property
    def next_batch(self) -> int:
        return self.global_step * self.accumulate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer = self.optimizers()
            assert not isinstance(optimizer, list)
            self.manual_backward(self.weight.sum())
            optimizer.step()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_with_the_batches_that_it_would_have_had(accumulate: int, tmp_path: Path) -> None:
    data, recorder = make(), Recorder(accumulate)
    first = trainer(max_steps=3, default_root_dir=tmp_path)
    first.fit(recorder, datamodule=data)
    first.save_checkpoint(tmp_path / "at_3.ckpt")
    resumed_data, resumed = make(), Recorder(accumulate)
    second = trainer(max_steps=5, default_root_dir=tmp_path)
    second.fit(resumed, datamodule=resumed_data, ckpt_path=tmp_path / "at_3.ckpt", weights_only=True)
    assert (len(recorder.batches), len(resumed.batches)) == (3 * accumulate, 2 * accumulate)
    for step, batch in enumerate(recorder.batches + resumed.batches):
        assert equal(batch, data.batch_of_step(step))


def test_no_validation_images_make_no_loader() -> None:
    assert ready().val_dataloader() == []
    assert ready().validation is None


def test_without_test_images_there_is_nothing_to_test() -> None:
    data = ready(InMemory(num_test=0))
    assert data.test is None
    with pytest.raises(UserError, match="this data set has no test images: nothing to test on"):
        data.test_dataloader()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_evaluation_sees_every_image_as_it_is(part: str, num_workers: int) -> None:
    data = ready(num_val=9, eval_batch_size=4, num_workers=num_workers)
    images = data.validation if part == "validation" else data.test
    loader = data.val_dataloader() if part == "validation" else data.test_dataloader()
    assert images is not None
    batches = [data.on_after_batch_transfer(raw, 0) for raw in loader]
    assert all(isinstance(batch, EvalBatch) for batch in batches)
    assert [len(batch.image) for batch in batches] == ([3, 3, 3] if part == "validation" else [4] * 5)
    indices = torch.cat([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(len(images)))
    assert torch.cat([batch.label for batch in batches]).tolist() == images.labels[indices].tolist()
    assert torch.equal(torch.cat([batch.image for batch in batches]), data.normalise(pixels(images))[indices])


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_all_ranks_together_evaluate_each_image_once(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[int]] = {"val": [], "test": []}
    for rank in range(world_size):
        data = ready(num_val=5, eval_batch_size=2)  # with 7 ranks, two of them have no validation image
        as_rank(data, rank, world_size, monkeypatch)
        for name, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
            seen[name].extend(i for batch in loader for i in batch.indices.tolist())
    assert sorted(seen["val"]) == list(range(5))
    assert sorted(seen["test"]) == list(range(20))


def test_other_batches_pass_through_untouched() -> None:
    batch = torch.zeros(2)
    assert make().on_after_batch_transfer(batch, 0) is batch


# ------------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_is_its_equation(channels_last: bool) -> None:
    data = make(channels_last=channels_last)
    images = torch.randint(256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = images.clone()
    normalised = data.normalise(images)
    expected = np.empty(images.shape)
    for n, c, y, x in np.ndindex(*images.shape):
        mean, std = (0.4, 0.5, 0.6)[c], (0.2, 0.25, 0.3)[c]
        expected[n, c, y, x] = (images[n, c, y, x].item() / 255 - mean) / std
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised.numpy(), expected, rtol=0, atol=2e-6)
    assert torch.equal(images, before)


def test_channels_last_changes_the_layout_and_nothing_else() -> None:
    last, first = ready(channels_last=True).batch_of_step(2), ready().batch_of_step(2)
    assert equal(last, first)
    for batch, layout in ((last, torch.channels_last), (first, torch.contiguous_format)):
        for images in (*batch.labelled.views.values(), *unlabelled_of(batch).views.values()):
            assert images.is_contiguous(memory_format=layout)
    assert not last.labelled.views["weak"].is_contiguous()
