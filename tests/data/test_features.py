"""Features in files: those of the network to the bit, computed once, whatever stops the work."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.frozen import Blobs, frozen_data, frozen_network, kept
from tests.processes import Process

from layermatch import UserError
from layermatch.augment import StrongView, WeakView
from layermatch.data import Batch, SemiSupervisedData, Views, features
from layermatch.data.cache import CacheError
from layermatch.data.feature_files import FeatureFile
from layermatch.data.features import PLAIN, FeatureOptions, extractor_digest
from layermatch.errors import RunError
from layermatch.functional.streams import uniforms
from layermatch.networks import Network


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "features").glob("*.features"))}


def own_features(data: SemiSupervisedData, network: Network, images: Any, kind: str, number: int) -> torch.Tensor:
    """What the network itself gives for a view of every image of a set, in the blocks that are computed together."""
    network.eval()
    rows = []
    for start in range(0, len(images), 32):
        index = np.arange(start, min(start + 32, len(images)))
        pixels = torch.from_numpy(images.read(index))
        if kind != PLAIN:
            view = data.kinds[kind]
            draws = uniforms(
                seed=0, stream={"weak": 1000, "strong": 1002}[kind], start=number * len(images) + start,
                count=len(index), width=view.num_draws,
            )  # fmt: skip
            pixels = view(pixels, torch.from_numpy(draws))
        with torch.no_grad():
            rows.append(network(data.normalise(pixels)).features)
    return torch.cat(rows)


def as_float(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows.reshape(len(rows), -1).copy()).view(torch.float32)


def test_the_features_are_those_of_the_network_to_the_bit(tmp_path: Path) -> None:
    network = frozen_network()
    data = kept(frozen_data(tmp_path), network, of_pool=True)
    store = data.features
    pool, more = data.content.labelled.images, data.content.unlabelled.images
    for kind, number in ((PLAIN, 0), ("weak", 0), ("weak", 1), ("strong", 0), ("strong", 1)):
        of_pool, of_more = (own_features(data, network, images, kind, number) for images in (pool, more))
        view = store.of_kinds(data.unlabelled.images, {"": kind})[kind][number]
        found = as_float(view.read(np.arange(len(data.unlabelled))))
        assert torch.equal(found, torch.cat([of_pool[data.split.in_pool], of_more]))
    assert len(data.unlabelled) < len(pool) + len(more)  # validation images are in no training set
    for part in (data.test, data.validation):
        steps = data.eval_steps(part)
        for batch in (steps[number] for number in range(len(steps))):
            images = torch.from_numpy(part.images.read(batch.indices.numpy()))
            with torch.no_grad():
                torch.testing.assert_close(batch.image, network(data.normalise(images)).features, rtol=1e-5, atol=1e-6)
    test = data.eval_steps(data.test)
    whole = own_features(data, network, data.test.images, PLAIN, 0)
    assert all(torch.equal(test[number].image, whole[test[number].indices]) for number in range(len(test)))


def test_a_step_takes_views_of_its_images_and_different_ones_of_a_kind(tmp_path: Path) -> None:
    network = frozen_network()
    data = kept(frozen_data(tmp_path, feature_views=3), network)
    assert data.features is not None
    by_view = data.features.of_kinds(data.unlabelled.images, data.views.unlabelled)
    every = {
        kind: torch.stack([as_float(view.read(np.arange(len(data.unlabelled)))) for view in views])
        for kind, views in by_view.items()
    }
    chosen = []
    for step in range(6):
        batch = data.batch_of_step(step)
        views, indices = batch.unlabelled.views, batch.unlabelled.indices
        numbers, clear = {}, {}
        for name, kind in data.views.unlabelled.items():
            equal = (every[kind][:, indices] == views[name]).all(dim=2)  # (V, N)
            assert equal.any(dim=0).all()
            clear[name] = equal.sum(dim=0) == 1  # two views of an image may be the same crop
            numbers[name] = equal.int().argmax(dim=0)
        both = clear["strong"] & clear["strong_2"]
        assert (numbers["strong"] != numbers["strong_2"])[both].all()
        chosen.append(torch.stack(list(numbers.values()))[:, both & clear["weak"]])
    taken = torch.cat(chosen, dim=1)
    assert taken.shape[1] > 30
    assert all({0, 1, 2} == set(of_view.tolist()) for of_view in taken)
    # The images of a step are those that it has without features, with the labels.
    plain = frozen_data(tmp_path, storage="ram").batch_of_step(5)
    assert torch.equal(plain.unlabelled.indices, data.batch_of_step(5).unlabelled.indices)
    assert torch.equal(plain.labelled.label, data.batch_of_step(5).labelled.label)


def test_two_ranks_see_what_one_sees(tmp_path: Path) -> None:
    network = frozen_network()
    whole = kept(frozen_data(tmp_path), network)
    half = kept(frozen_data(tmp_path, batch_size=2), network)

    def of_rank(rank: int, step: int) -> Batch:
        steps = half.feature_steps()
        assert steps is not None
        steps.steps.rank, steps.steps.world_size = rank, 2
        return steps[step]

    for step in (0, 7):
        one, two = whole.batch_of_step(step), [of_rank(rank, step) for rank in (0, 1)]
        for name, view in one.unlabelled.views.items():
            assert torch.equal(view, torch.cat([each.unlabelled.views[name] for each in two]))
        assert torch.equal(one.labelled.views["weak"], torch.cat([each.labelled.views["weak"] for each in two]))
        assert torch.equal(one.labelled.label, torch.cat([each.labelled.label for each in two]))


def changed_weight(network: Network) -> Network:
    with torch.no_grad():
        network.extractor.out.bias[0] += 1
    return network


def changed_statistic(network: Network) -> Network:
    network.extractor.norm.running_var[0] += 1
    return network


CHANGES: dict[str, Callable[[Path], tuple[SemiSupervisedData, Network]]] = {
    "weight": lambda folder: (frozen_data(folder), changed_weight(frozen_network())),
    "statistic": lambda folder: (frozen_data(folder), changed_statistic(frozen_network())),
    "data": lambda folder: (frozen_data(folder, Blobs(seed=1)), frozen_network()),
    "mean": lambda folder: (frozen_data(folder, mean=(0.4,)), frozen_network()),
    "dtype": lambda folder: (frozen_data(folder, feature_dtype="bfloat16"), frozen_network()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_features_depend_on_gives_other_files(change: str, tmp_path: Path) -> None:
    kept(frozen_data(tmp_path), frozen_network())
    before = set(files(tmp_path))
    kept(*CHANGES[change](tmp_path))
    after = set(files(tmp_path))
    assert before < after
    assert len(after) == 2 * len(before)  # nothing is shared


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"weak": WeakView(flip=False)}, {"weak"}),
        ({"strong": StrongView(num_ops=2)}, {"strong"}),
        ({"feature_seed": 1}, {"weak", "strong"}),
        ({"feature_views": 3}, {"weak", "strong"}),
        ({"seed": 5, "num_labels": 15}, set()),
        ({"eval_batch_size": 3, "batch_size": 8, "mu": 1}, set()),
    ],
)
def test_a_view_that_changes_is_computed_and_the_others_are_not(
    changes: dict[str, Any], kinds: set[str], tmp_path: Path
) -> None:
    network = frozen_network()
    kept(frozen_data(tmp_path, num_val=0), network, of_pool=True)
    before = files(tmp_path)
    again = kept(frozen_data(tmp_path, num_val=0, **changes), network, of_pool=True)
    after = files(tmp_path)
    assert {name.split("-")[1] for name in after.keys() - before.keys()} == kinds
    assert all(after[name] == content for name, content in before.items())
    assert bool(again.features.computed) == bool(kinds)


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    network = frozen_network()
    first = kept(frozen_data(tmp_path), network)
    assert network.extractor.seen == first.features.computed == first.features.num_passes
    again = kept(frozen_data(tmp_path), network)
    assert again.features.computed == 0
    assert network.extractor.seen <= first.features.computed + 2  # two images to see that they are the same


def test_one_data_module_keeps_what_the_next_method_and_network_need(tmp_path: Path) -> None:
    """The pool as it is, where it was not asked for before; and another network on the same weights."""
    data, network = frozen_data(tmp_path), frozen_network()
    kept(data, network)
    before = data.features
    data.keep_features(network, device=torch.device("cpu"))
    assert data.features is before
    data.keep_features(network, device=torch.device("cpu"), of_pool=True)
    assert data.features is not before
    (pool, *_) = list(data.pool_dataloader())
    assert pool.image.shape[1:] == (6,)
    network.resize = 5
    whole = data.features
    data.keep_features(network, device=torch.device("cpu"))
    assert data.features.network_key != whole.network_key


def test_only_blocks_with_images_that_are_needed_are_computed(tmp_path: Path) -> None:
    labels_alone = frozen_data(tmp_path, views=Views(labelled={"plain": "plain"}), num_labels=3, num_val=0)
    blocks = {row // 32 for row in labels_alone.split.labelled}
    data = kept(labels_alone, frozen_network())
    sizes = {0: 32, 1: 32, 2: 6}
    assert data.features.computed == sum(sizes[block] for block in blocks) + 20
    assert data.batch_of_step(0).labelled.views["plain"].shape == (4, 6)


def test_training_goes_on_as_if_nothing_had_been_computed(tmp_path: Path) -> None:
    """Random numbers, modes and devices are as they were, whether the features are there or not."""
    network = frozen_network().train()
    for _ in range(2):
        torch.manual_seed(3)
        kept(frozen_data(tmp_path), network)
        assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(3)).item()
        assert network.training
        assert network.extractor.dropout.training


def test_bfloat16_takes_half_the_room_and_is_near(tmp_path: Path) -> None:
    network = frozen_network()
    full, half = (kept(frozen_data(tmp_path, feature_dtype=dtype), network) for dtype in ("float32", "bfloat16"))
    assert half.features.num_bytes * 2 == full.features.num_bytes
    one, other = (data.eval_steps(data.test)[0].image for data in (full, half))
    assert one.dtype == other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


# ---------------------------------------------------------------------------------------------------------------- stops

STOPPED = """
import sys, time
from pathlib import Path
from layermatch.data import feature_files
from tests.data.frozen import Extractor, frozen_data, frozen_network, kept
feature_files._MARK_EVERY = 0.0
forward = Extractor.forward
def slow(self, images):
    time.sleep(0.1)
    return forward(self, images)
Extractor.forward = slow
kept(frozen_data(Path(sys.argv[1])), frozen_network())
"""


def num_finished(folder: Path) -> int:
    """Blocks that are marked; a file ends with the marks."""
    return sum(content[70 * 24 :].count(1) for name, content in files(folder).items() if name.startswith("70x"))


def test_killed_half_way_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    kept(frozen_data(whole), frozen_network())
    process = Process([sys.executable, "-c", STOPPED, str(stopped)])
    limit = time.monotonic() + 500
    while num_finished(stopped) < 4 and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = num_finished(stopped)
    assert 4 <= there < num_finished(whole)
    assert files(stopped) != files(whole)

    network = frozen_network()
    store = kept(frozen_data(stopped), network).features
    assert files(stopped) == files(whole)
    assert store.computed < store.num_passes  # what was there was left
    assert network.extractor.seen <= store.computed + 2


def test_a_file_that_was_cut_off_is_computed_again(tmp_path: Path) -> None:
    network = frozen_network()
    kept(frozen_data(tmp_path), network)
    before = files(tmp_path)
    path = tmp_path / "features" / next(iter(before))
    path.write_bytes(before[path.name][:-9])
    kept(frozen_data(tmp_path), network)
    assert files(tmp_path) == before


def test_features_of_another_network_under_this_name_are_refused(tmp_path: Path) -> None:
    """A part of the network that its name does not tell, as a constant in its code, shows."""
    kept(frozen_data(tmp_path), frozen_network())
    network = frozen_network()
    network.extractor.forward = lambda images: 2 * type(network.extractor).forward(network.extractor, images)
    with pytest.raises(RunError, match=r"holds other features than this network gives: delete .*features$"):
        kept(frozen_data(tmp_path), network)


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_an_extractor_that_learns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^storage=features is not legal with an extractor that learns \(") as caught:
        kept(frozen_data(tmp_path), frozen_network(learns=True))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "features").exists()


def test_images_that_grow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^ramp\.side is not legal with storage=features, which has one size: give "):
        frozen_data(tmp_path, ramp={"side": [[0.5, 0.75]]}, num_batches=10)
    assert not list(tmp_path.iterdir())


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = frozen_network()
    network.extractor.out.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"^the extractor gives features that are not finite"):
        kept(frozen_data(tmp_path), network)


@pytest.mark.parametrize(
    "options", [{"views": 0}, {"views": 1.5}, {"seed": -1}, {"dtype": "float16"}, {"dtype": None}, {"views": "all"}]
)
def test_options_that_are_not_legal_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(UserError, match=rf"^feature_{name}=.* is not legal"):
        FeatureOptions(**options)


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    data = frozen_data(tmp_path)
    (tmp_path / "features").write_text("a file")
    with pytest.raises(CacheError, match=r"^features cannot be written to .*: give another cache_dir=FOLDER"):
        kept(data, frozen_network())


def test_no_room_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage)
    network = frozen_network()
    with pytest.raises(CacheError, match=r"^the features need .*, but .* has 100 bytes free: give another cache_dir"):
        kept(frozen_data(tmp_path), network)
    assert network.extractor.seen == 0


def test_a_digest_is_of_every_buffer_and_parameter() -> None:
    digests = {extractor_digest(frozen_network().extractor)}
    for change in (changed_weight, changed_statistic):
        digests.add(extractor_digest(change(frozen_network()).extractor))
    assert len(digests) == 3


def test_a_block_counts_once_it_is_marked(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "a.features", count=40, width=2, dtype="float32")
    assert not file.finished().any()
    file.make()
    file.write(1, torch.ones(8, 2))
    assert not file.finished().any()
    file.mark([1])
    assert file.finished().tolist() == [False, True]
    file.make()  # leaves what is there
    assert as_float(file.open().read(np.array([39, 0]))).tolist() == [[1, 1], [0, 0]]
