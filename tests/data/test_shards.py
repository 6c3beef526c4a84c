"""Data sets in shards: what is written, found and streamed, and what is said of shards that cannot be used."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from layermatch.data import SemiSupervisedData
from layermatch.data.blocks import blocks_of
from layermatch.data.file_images import FileImages
from layermatch.data.images import ArrayImages
from layermatch.data.manifest import Row, write_manifest
from layermatch.data.shard_index import ShardIndex, build_index
from layermatch.data.shard_writer import ShardPlan, write_shards
from layermatch.data.sources import Digits, ImageSet, Shards, SourceData
from layermatch.data.splits import Split, make_split
from layermatch.data.steps import EvalSteps, RawBatch
from layermatch.errors import RunError, UserError
from layermatch.files import unfinished_of

PER_SHARD = 60


def digits_plan(**options: Any) -> ShardPlan:
    content = Digits().load()
    split = make_split(
        content.labelled.labels, num_classes=10, num_labels=40, num_val=50, val_from="pool", seed=0
    )  # fmt: skip
    return ShardPlan(content, split, **{"images_per_shard": PER_SHARD, "seed": 0} | options)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,387 training digits in 24 shards, 40 of them with a label; nobody changes them."""
    folder = tmp_path_factory.mktemp("digits") / "shards"
    write_shards(digits_plan(), folder)
    return folder


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """60 training images in six shards, which a test may hurt."""
    content = Digits().load()
    split = Split(0, len(content.labelled), tuple(range(20)), ())
    rows = np.arange(60)
    small = SourceData(
        classes=content.classes, unlabelled=None, test=None,
        labelled=ImageSet(ArrayImages(content.labelled.images.read(rows)), content.labelled.labels[rows]),
    )  # fmt: skip
    write_shards(ShardPlan(small, Split(0, 60, split.labelled, ()), images_per_shard=10, seed=0), tmp_path / "few")
    return tmp_path / "few"


def source(root: Path, **options: Any) -> Shards:
    return Shards(root=root, **{"image_size": 8, "channels": 1, "window": 3} | options)


def data_of(root: Path, *, window: int = 3, bad_shards: str = "error", **options: Any) -> SemiSupervisedData:
    given: dict[str, Any] = {"batch_size": 8, "mu": 3, "seed": 0, "num_workers": 0, "mean": (0.3,), "std": (0.4,)}
    data = SemiSupervisedData(source(root, window=window, bad_shards=bad_shards), **given | options)
    data.setup()
    return data


def tensors(batch: RawBatch) -> list[torch.Tensor]:
    parts = [part for part in batch if part is not None]
    return [tensor for part in parts for tensor in (part.images, part.label, part.indices, *part.draws)]


def equal(first: RawBatch, second: RawBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def picture(value: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------- writing


def test_shards_have_the_images_and_labels_that_the_split_gives_them(digits: Path) -> None:
    plan, content = digits_plan(), source(digits).load()
    original = plan.content
    assert content.classes == original.classes
    assert {part: len(images) for part, images in content.parts().items()} == {
        "labelled": 40, "unlabelled": 1347, "validation": 50, "test": 360
    }  # fmt: skip
    assert np.array_equal(content.test.images.read(np.arange(360)), original.test.images.read(np.arange(360)))
    assert np.array_equal(content.test.labels, original.test.labels)

    def found(images: ImageSet, rows: np.ndarray, *, labels: np.ndarray) -> list[tuple[int, bytes]]:
        pixels = images.images.read(rows)
        return sorted((int(label), image.tobytes()) for label, image in zip(labels[rows], pixels, strict=True))

    chosen = np.array(plan.split.labelled)
    labels = original.labelled.labels
    assert found(content.labelled, np.arange(40), labels=content.labelled.labels) == found(
        original.labelled, chosen, labels=labels
    )
    others = np.setdiff1d(plan.split.in_pool, chosen)
    assert found(content.unlabelled, np.arange(1347), labels=content.unlabelled.labels) == found(
        original.labelled, others, labels=np.full(len(labels), -1)
    )


def test_webdataset_reads_the_same_samples(digits: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = digits / "train-000003.tar"
    read = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    index = ShardIndex.load(path.with_name("train-000003.index.npz"))
    assert [f"{sample['__key__']}.png" for sample in read] == list(index.names)
    given = [index.classes[label] if label >= 0 else "" for label in index.labels]
    assert [sample.get("cls", b"").decode() for sample in read] == given
    assert any(given)
    with path.open("rb") as file:
        for sample, offset, size in zip(read, index.offsets.tolist(), index.sizes.tolist(), strict=True):
            file.seek(offset)
            assert file.read(size) == sample["png"]
    listed = json.loads((digits / "index.json").read_text())["shardlist"]
    assert sum(shard["nsamples"] for shard in listed) == 1387 + 50 + 360


def test_shards_of_webdataset_are_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "data").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "data" / "%05d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            sample = {"__key__": f"{number:05d}", "png": picture(number * 20), "json": {"url": "x"}}
            writer.write(sample | ({"cls": number % 2} if number < 6 else {}))
    content = source(tmp_path / "data", index_dir=tmp_path / "indices").load()
    assert content.classes == ("0", "1")
    assert content.labelled.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert content.image_ids["labelled"][4] == "00001.tar/00004.png"
    assert content.labelled.images.read(np.arange(6))[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80, 100]
    assert content.unlabelled.images.read(np.arange(4))[:, 0, 3, 3].tolist() == [120, 140, 160, 180]
    assert len(list((tmp_path / "indices").iterdir())) == 3
    assert not list((tmp_path / "data").glob("*.npz"))


def test_image_files_are_copied_as_they_are_and_keep_their_names(tmp_path: Path) -> None:
    files = []
    for number, kind in enumerate(("JPEG", "PNG", "BMP", "WEBP")):
        files.append(tmp_path / f"picture {number}.{kind.lower()}")
        files[-1].write_bytes(picture(50 * number, kind))
    content = SourceData(
        classes=("cat", "dog"), labelled=ImageSet(FileImages(files, size=8, channels=1), np.array([0, 1, 0, 1])),
        unlabelled=None, test=None, image_ids={"labelled": tuple(file.name for file in files)},
    )  # fmt: skip
    write_shards(ShardPlan(content, Split(0, 4, (0, 1, 2, 3), ()), images_per_shard=4, seed=0), tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-000000.tar") as tar:
        read = {member.name: tar.extractfile(member).read() for member in tar}
    names = {json.loads(read[name])["name"]: name[:9] for name in read if name.endswith(".json")}
    for file in files:
        key, suffix = names[file.name], {".jpeg": "jpg", ".bmp": "png"}.get(file.suffix, file.suffix[1:])
        if file.suffix == ".bmp":
            assert np.asarray(Image.open(io.BytesIO(read[f"{key}.png"]))).tolist() == np.full((8, 8), 100).tolist()
        else:
            assert read[f"{key}.{suffix}"] == file.read_bytes()
    assert (tmp_path / "shards" / "classes.txt").read_text() == "cat\ndog\n"


def test_writing_goes_on_where_it_stopped_and_gives_the_same_bytes(tmp_path: Path, digits: Path) -> None:
    folder = tmp_path / "shards"
    write_shards(digits_plan(), folder)
    (folder / "index.json").rename(folder / "unfinished.json")
    (folder / "train-000004.tar").unlink()
    whole = (folder / "train-000007.tar").read_bytes()
    (folder / "train-000007.tar").write_bytes(whole[:5000])
    (folder / "test-000001.index.npz").unlink()
    unfinished_of(folder / "train-000004.tar").write_bytes(b"left over")
    with pytest.raises(UserError, match=r"are unfinished: give python -m layermatch.shard its settings again"):
        source(folder).load()
    assert write_shards(digits_plan(), folder) == (3, 31)
    assert write_shards(digits_plan(), folder) == (0, 31)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in digits.iterdir())
    for path in digits.glob("*.tar"):
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_shards_of_something_else_are_left_alone(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(UserError, match=r"holds shards of another data set, or written with other settings"):
        write_shards(digits_plan(seed=1), digits)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty: give a new folder$"):
        write_shards(digits_plan(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# ----------------------------------------------------------------------------------------------------------- streaming


def test_batches_are_a_function_of_seed_and_step_in_any_process(digits: Path) -> None:
    data = data_of(digits)
    steps = data.training_steps()
    batches = [steps[step] for step in range(70)]
    assert len({int(index) for batch in batches for index in batch.unlabelled.indices}) == len(data.unlabelled) == 1387
    again = pickle.loads(pickle.dumps(data_of(digits).training_steps()))  # noqa: S301 -- as for another process
    for step in (61, 17, 0, 33):
        assert equal(again[step], batches[step])
    assert not equal(data_of(digits, seed=1, num_labels=None).training_steps()[17], batches[17])


def test_two_ranks_have_the_batches_of_one(digits: Path) -> None:
    one = data_of(digits, batch_size=8).training_steps()
    halves = [data_of(digits, batch_size=4).training_steps() for _ in range(2)]
    for rank, steps in enumerate(halves):
        steps.rank, steps.world_size = rank, 2
    for step in (0, 57, 58, 300):
        pairs = zip(*(tensors(steps[step]) for steps in halves), strict=True)
        assert all(torch.equal(torch.cat(pair), whole) for pair, whole in zip(pairs, tensors(one[step]), strict=True))


@pytest.mark.parametrize("options", [{"storage": "ram"}, {"storage": "lazy"}, {"num_workers": 2}])
def test_batches_do_not_depend_on_where_images_are_kept(digits: Path, options: dict[str, Any]) -> None:
    data, other = data_of(digits), data_of(digits, **options)
    if "num_workers" in options:
        loaded: Iterator[RawBatch] = iter(other.train_dataloader())
        assert all(equal(next(loaded), data.training_steps()[step]) for step in range(4))
    else:
        assert all(equal(data.training_steps()[step], other.training_steps()[step]) for step in (0, 40, 90))


def test_only_the_shards_of_a_window_are_open(digits: Path) -> None:
    data = data_of(digits, window=2)
    steps = data.training_steps()
    (streamed,) = [part for part in steps.unlabelled.images.parts if blocks_of(part) is not None]
    for step in range(40):
        steps[step]
        assert 1 <= len(streamed._open) <= 4
    # What is pickled for another process, and so what is kept, is some numbers for each shard.
    assert len(pickle.dumps(streamed)) < 1000 * len(streamed.shards)
    assert data.unlabelled.labels.strides == (0,)


def test_labelled_and_evaluated_images_are_in_memory(digits: Path) -> None:
    data = data_of(digits)
    assert all(blocks_of(part.images) is None for part in (data.labelled, data.validation, data.test))
    assert (len(data.labelled), len(data.validation), len(data.test)) == (40, 50, 360)
    content = source(digits).load()
    assert np.array_equal(data.test.images.read(np.arange(360)), content.test.images.read(np.arange(360)))
    assert int((data.pool_labels >= 0).sum()) == 40


def test_a_pass_over_the_pool_reads_each_image_once(digits: Path) -> None:
    pool = data_of(digits).unlabelled
    for world_size in (1, 3):
        ranks = [EvalSteps(pool, batch_size=100, rank=rank, world_size=world_size) for rank in range(world_size)]
        batches = [batch for steps in ranks for batch in steps.batches]
        assert sorted(np.concatenate(batches).tolist()) == list(range(1387))
        assert max(map(len, batches)) <= 100
        assert all((np.diff(batch) == 1).all() for batch in batches)
    beyond = EvalSteps(pool, batch_size=100, rank=2, world_size=3000)
    assert len(beyond) == 1
    assert len(beyond[0].images) == len(beyond.batches[0]) <= 1


def test_a_part_of_the_pool_is_of_few_shards(digits: Path) -> None:
    parts = {}
    for limit in (100, 300):
        data = data_of(digits, pool_limit=limit)
        assert len(data.unlabelled) == limit
        assert int((data.pool_labels >= 0).sum()) == 40
        read = data.unlabelled.images.read(np.arange(limit))
        parts[limit] = {image.tobytes() for image in read}
        streamed = data.unlabelled.images.parts[1]
        assert len(blocks_of(streamed).ends) <= -(-(limit - 40) // (PER_SHARD - 10)) + 1
    assert parts[100] < parts[300]


def test_where_every_image_has_a_label_the_pool_is_streamed_as_well(tmp_path: Path) -> None:
    content = Digits().load()
    every = Split(0, len(content.labelled), tuple(range(len(content.labelled))), ())
    write_shards(ShardPlan(content, every, images_per_shard=200, seed=0), tmp_path / "all")
    data = data_of(tmp_path / "all", num_labels=20, num_val=30, pool_limit=500)
    assert data.content.unlabelled is None
    assert (len(data.labelled), len(data.validation), len(data.unlabelled)) == (20, 30, 500)
    assert data.is_streamed
    assert set(data.unlabelled.labels.tolist()) == {*range(-1, 10)}  # known, and for diagnostics alone
    batch = data.training_steps()[3].unlabelled
    assert np.array_equal(batch.images.numpy(), data.unlabelled.images.read(batch.indices.numpy()))


def test_streamed_images_are_not_compared_with_those_of_the_test(digits: Path) -> None:
    assert data_of(digits, leaks="report").leaks_found is None
    with pytest.raises(UserError, match=r"^leaks=remove is not legal where images are streamed"):
        data_of(digits, leaks="remove")


def test_features_of_streamed_images_are_not_kept(digits: Path, tmp_path: Path) -> None:
    """They are named by the content of all images, which nobody has read."""
    with pytest.raises(
        UserError, match=r"^storage=features is not legal where images are streamed: give storage=auto$"
    ):
        data_of(digits, storage="features", cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_numbers_names_or_fields(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "0.tar", {
        "x/1.jpg": picture(0, "JPEG"), "x/1.cls": b"dog\n", "x/2.seg.png": picture(9), "x/2.json": b'{"label": "cat"}',
        "x/3.png": picture(1), "x/3.json": b'{"label": null, "caption": "label"}', "x/4.txt": b"no image",
        "x/5.png": picture(2), "x/5.jpg": picture(3, "JPEG"), "x/5.json": b"{broken \"label\"",
    })  # fmt: skip
    content = source(tmp_path / "a").load()
    assert content.classes == ("cat", "dog")
    assert content.image_ids["labelled"] == ("0.tar/x/1.jpg", "0.tar/x/2.seg.png")
    assert content.labelled.labels.tolist() == [1, 0]
    assert content.unlabelled.images.read(np.arange(2))[:, 0, 0, 0].tolist() == [1, 2]
    (tmp_path / "a" / "classes.txt").write_text("cat\nfox\n")
    with pytest.raises(UserError, match=r"the label dog of an image is none of the classes of .*classes.txt$"):
        source(tmp_path / "a").load()
    write_tar(tmp_path / "b" / "0.tar", {"1.png": picture(0), "1.cls": b"7", "2.png": picture(0), "2.cls": b"10"})
    assert source(tmp_path / "b").load().classes == ("7", "10")
    (tmp_path / "b" / "classes.txt").write_text("\n".join("abcdefgh"))
    with pytest.raises(UserError, match=r"the label 10 of an image is none of the 8 classes"):
        source(tmp_path / "b").load()
    write_tar(tmp_path / "c" / "0.tar", {"1.png": picture(0)})
    with pytest.raises(UserError, match=r"no training image in the shards below .* has a label"):
        source(tmp_path / "c").load()


def test_a_manifest_says_which_images_have_a_label(few: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    rows = [
        Row("train-000000.tar/000000003.png", "cat"), Row("train-000004.tar/000000041.png", "dog"),
        Row("train-000002.tar/000000020.png", "dog", "val"), Row("train-000002.tar/000000021.png", "", "ignored"),
    ]  # fmt: skip
    write_manifest(table, rows)
    content = source(few, manifest=table).load()
    assert content.classes == ("cat", "dog")
    assert content.image_ids["labelled"] == (rows[0].path, rows[1].path)
    assert content.image_ids["validation"] == (rows[2].path,)
    assert len(content.unlabelled) == 56
    everything = source(few).load()
    pixels = {image.tobytes() for image in content.unlabelled.images.read(np.arange(56))}
    assert content.labelled.images.read(np.arange(2))[0].tobytes() not in pixels
    assert everything.pool != content.pool
    for wrong in ("train-000009.tar/000000003.png", "train-000000.tar/nowhere.png", "000000003.png"):
        write_manifest(table, [*rows, Row(wrong, "cat")])
        with pytest.raises(UserError, match=r"^manifest=.*(is in no shard that is there|there is no image)"):
            source(few, manifest=table).load()


def test_statistics_of_something_else_are_no_missing_shard(few: Path) -> None:
    (few / "index.json").unlink()
    (few / "dataset_stats.json").write_text("{}")
    (few / "train-17_stats.json").write_text("{}")
    assert len(source(few).load().labelled) > 0
    (few / "train-000099_stats.json").write_text("{}")
    with pytest.raises(UserError, match=r"train-000099.tar: it is missing, and its _stats.json is there"):
        source(few).load()


# ---------------------------------------------------------------------------------------------------------- bad shards


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def gone(folder: Path) -> str:
    (folder / "train-000002.tar").unlink()
    return "train-000002.tar: it is missing, and index.json has it"


def cut_off(folder: Path) -> str:
    cut(folder / "train-000002.tar", 4000)
    return "train-000002.tar: it is cut off, or another one than when its index was written"


def gone_without_a_list(folder: Path) -> str:
    (folder / "index.json").unlink()
    (folder / "train-000002.tar").unlink()
    return "train-000002.tar: it is missing"


def cut_without_an_index(folder: Path) -> str:
    (folder / "train-000002.index.npz").unlink()
    with tarfile.open(folder / "train-000002.tar") as tar:
        offset = tar.getmembers()[4].offset
    cut(folder / "train-000002.tar", offset)  # between two members
    return "train-000002.tar: it is cut off: its end is missing"


def compressed(folder: Path) -> str:
    (folder / "train-000002.index.npz").unlink()
    (folder / "train-000002.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    return "train-000002.tar: it is compressed: unpack it, as single images are read from it"


@pytest.mark.parametrize("hurt", [gone, cut_off, gone_without_a_list, cut_without_an_index, compressed])
def test_a_bad_shard_is_named_or_left_out(few: Path, hurt: Any) -> None:
    whole = data_of(few)
    said = hurt(few)
    with pytest.raises(UserError) as caught:
        data_of(few)
    assert str(caught.value) == (
        f"1 of 6 shards below {few} cannot be used ({said}): put them there again, or bad_shards=skip to go without"
    )
    data = data_of(few, bad_shards="skip", num_labels=None)
    assert len(data.unlabelled) == len(whole.unlabelled) - 10
    assert data.content.notes["shards"] == f"5, 3 of them mixed at a time; 1 of 6 left out ({said})"
    assert data.content.pool != whole.content.pool
    data.training_steps()[9]


@pytest.mark.parametrize("size", range(0, 12_000, 700))
def test_a_shard_that_is_cut_off_anywhere_is_found(tmp_path: Path, size: int) -> None:
    write_tar(tmp_path / "0.tar", {f"{k}.png": picture(k) for k in range(9)})
    write_tar(tmp_path / "1.tar", {"0.png": picture(0), "0.cls": b"a", "1.png": picture(0), "1.cls": b"b"})
    assert len(build_index(tmp_path / "0.tar")) == 9
    cut(tmp_path / "0.tar", size)
    whole = 9 * 1024  # a head and a picture each; what follows is zeros
    content = source(tmp_path, bad_shards="skip", index_dir=tmp_path / "indices").load()
    if size >= whole + 512:
        assert len(content.unlabelled) == 9
    else:
        assert content.unlabelled is None
        assert "1 of 2 left out (0.tar: it is " in content.notes["shards"]


def test_a_shard_that_goes_while_a_run_trains_is_one_line(few: Path) -> None:
    data = data_of(few)
    steps = data.training_steps()
    for path in few.glob("train-*.tar"):
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match=r"^the shard .*tar cannot be read any more: its size is another one: put it"):
        steps[0]
    for path in few.glob("train-*.tar"):
        path.unlink()
    with pytest.raises(RunError, match=r"^the shard .*tar cannot be read any more: .*No such file"):
        steps[0]


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {
        "0.png": picture(0), "0.cls": b"a", "1.png": picture(0), "1.cls": b"b", "2.png": picture(9)[:50]
    })  # fmt: skip
    steps = data_of(tmp_path).training_steps()
    with pytest.raises(
        RunError, match=r"^the image .*0.tar/2.png cannot be decoded: .*: write its shard anew without it$"
    ):
        steps[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window=0 is not legal: give a whole number, at least 1"),
        ({"bad_shards": "ignore"}, "bad_shards='ignore' is not legal: choose one of error, skip"),
        ({"index_dir": 3}, "index_dir=3 is not legal: give the path of a folder, quoted: '3'"),
        ({"channels": 2}, "channels=2 is not legal: choose 1 (grey) or 3 (RGB)"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        source(tmp_path, **options)
    assert str(caught.value) == message
    with pytest.raises(UserError, match=r"has no shards: give a folder that holds .tar files$"):
        source(tmp_path).load()
