"""Writing a data set into shards."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layermatch.data.file_images import FileImages
from layermatch.data.identity import digest_of
from layermatch.data.images import ArrayImages, ConcatImages, Images, replace_leaves, take
from layermatch.data.passes import progress
from layermatch.data.shard_index import SUFFIX, ShardIndex, build_index
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.sources.base import UNKNOWN
from layermatch.data.sources.shards import CLASSES, LIST, UNFINISHED_LIST
from layermatch.data.splits import Split
from layermatch.data.wording import name_text, printable
from layermatch.errors import RunError, UserError, check_number
from layermatch.files import replace_text, replacing, unfinished_in

__all__ = ["ShardPlan", "write_shards"]

#: The stream of the seed that the order of training images is drawn with.
_STREAM = 3
#: The digits of a shard's number and of a sample's.
_SHARD_DIGITS, _SAMPLE_DIGITS = 6, 9
#: The formats whose files are copied as they are, by what the beginning of such a file is; others become PNG.
_COPIED = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}
#: What the parts of a data set are called in names of shards.
_NAMES = {"training": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ShardPlan:
    """What is written.

    Args:
        content: The data set.
        split: Which images of its training pool have a label and which are held out.
        images_per_shard: The number of images of each shard but the last one of a part.
        seed: The seed of the order that training images have.

    Raises:
        UserError: ``images_per_shard`` or ``seed`` is not legal.
    """

    content: SourceData
    split: Split
    images_per_shard: int
    seed: int

    def __post_init__(self) -> None:
        check_number("images_per_shard", self.images_per_shard, low=1, integer=True)
        check_number("seed", self.seed, low=0, integer=True)

    @property
    def fingerprint(self) -> str:
        """Digits that are the same where the same shards are written."""
        split = (self.split.labelled, self.split.validation, self.split.unlabelled)
        written = repr((digest_of(self.content), split, self.images_per_shard, self.seed))
        return hashlib.blake2b(written.encode(), digest_size=8).hexdigest()

    def parts(self) -> dict[str, tuple[ImageSet, tuple[str, ...]]]:
        """Return the images of each part in the order in which they are written, and their names where they have some.

        Training images are shuffled, so that each shard is like all of them; labels are those of the split.
        """
        content = self.content
        labels = np.full(len(content.labelled), UNKNOWN, np.int64)
        chosen = np.asarray(self.split.labelled, np.int64)
        labels[chosen] = content.labelled.labels[chosen]
        pool = self.split.in_pool
        training = _picked(ImageSet(content.labelled.images, labels), pool)
        names = [content.image_ids["labelled"][row] for row in pool.tolist()] if "labelled" in content.image_ids else []
        more = content.unlabelled
        if more is not None:
            unknown = np.concatenate([training.labels, np.full(len(more), UNKNOWN, np.int64)])
            training = ImageSet(ConcatImages([training.images, more.images]), unknown)
            names = [*names, *content.image_ids.get("unlabelled", ())] if names else []
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_STREAM,))).permutation(
            len(training)
        )
        if len(names) != len(training):  # of some nobody knows a name
            names = []
        found = {"training": (_picked(training, order), tuple(names[row] for row in order.tolist()) if names else ())}
        held_out = np.asarray(self.split.validation, np.int64)
        ids = content.image_ids
        if len(held_out):
            of_pool = ids.get("labelled", ())
            kept = tuple(of_pool[row] for row in held_out.tolist()) if of_pool else ()
            found["validation"] = _picked(content.labelled, held_out), kept
        elif content.validation is not None:
            found["validation"] = content.validation, ids.get("validation", ())
        if content.test is not None:
            found["test"] = content.test, ids.get("test", ())
        return found


def write_shards(plan: ShardPlan, folder: Path) -> tuple[int, int]:
    """Write a data set into shards, each with its index beside it, and a list of all of them.

    Shards take their names when they are whole, and those that are there are not written again: what was interrupted
    goes on. Image files are copied as they are where they are JPEG, PNG or WebP; other images become PNG files.

    Args:
        plan: What is written.
        folder: The folder to write to: one that is new or empty, or that this data set is being written to.

    Returns:
        The number of shards that were written now, and of all.

    Raises:
        UserError: The folder holds something else.
        RunError: Nothing more can be written; what is there is whole.
    """
    try:
        if _is_finished(folder, plan.fingerprint):
            return 0, len(json.loads((folder / LIST).read_text(encoding="utf-8"))["shardlist"])
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / UNFINISHED_LIST, json.dumps({"layermatch": plan.fingerprint}) + "\n")
        return _write_all(plan, folder)
    except OSError as error:
        raise RunError(
            f"output: cannot write to {printable(str(folder))}: {error.strerror or error}: shards that are there are "
            "whole, and the same command goes on"
        ) from error


def _is_finished(folder: Path, fingerprint: str) -> bool:
    """Return whether all is written; a folder of something else is refused."""
    for name in (LIST, UNFINISHED_LIST):
        try:
            written = json.loads((folder / name).read_text(encoding="utf-8")).get("layermatch")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError):
            written = None
        if written != fingerprint:
            raise UserError(
                f"output={printable(str(folder))} holds shards of another data set, or written with other settings: "
                "give a new folder"
            )
        return name == LIST
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"output={printable(str(folder))} is not empty: give a new folder")
    return False


def _write_all(plan: ShardPlan, folder: Path) -> tuple[int, int]:
    for left, _ in unfinished_in(folder):
        left.unlink()
    parts = plan.parts()
    shards: list[dict[str, Any]] = []
    written = 0
    replace_text(folder / CLASSES, "".join(f"{name_text(name)}\n" for name in plan.content.classes))
    with progress("writing images", sum(len(images) for images, _ in parts.values())) as advance:
        for part, (images, names) in parts.items():
            reader = _Reader(images.images)
            for number, start in enumerate(range(0, len(images), plan.images_per_shard)):
                rows = np.arange(start, min(start + plan.images_per_shard, len(images)))
                path = folder / f"{_NAMES[part]}-{number:0{_SHARD_DIGITS}}.tar"
                if not _is_whole(path):
                    _write_shard(path, _samples(reader, images, names, rows))
                    written += 1
                shards.append({"url": path.name, "nsamples": len(rows), "filesize": path.stat().st_size})
                advance(len(rows))
    listed = {"wids_version": 1, "layermatch": plan.fingerprint, "shardlist": shards}
    replace_text(folder / LIST, json.dumps(listed, indent=1) + "\n")
    (folder / UNFINISHED_LIST).unlink(missing_ok=True)
    return written, len(shards)


def _picked(images: ImageSet, rows: NDArray[np.int64]) -> ImageSet:
    return ImageSet(take(images.images, rows), images.labels[rows])


# --------------------------------------------------------------------------------------------------------------- shard


def _index_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".tar") + SUFFIX)


def _is_whole(path: Path) -> bool:
    index = ShardIndex.load(_index_of(path))
    return index is not None and path.is_file() and path.stat().st_size == index.size


def _write_shard(path: Path, samples: Iterator[Mapping[str, bytes]]) -> None:
    """Write a shard and its index; each is whole, or not there."""
    with replacing(path) as unfinished:
        with unfinished.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                for name, content in sample.items():
                    member = tarfile.TarInfo(name)  # without a time or an owner: the same images are the same bytes
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        index = build_index(unfinished)
    index.save(_index_of(path))


def _samples(
    reader: _Reader, images: ImageSet, names: Sequence[str], rows: NDArray[np.int64]
) -> Iterator[dict[str, bytes]]:
    """Yield the members of each sample by name."""
    for row in rows.tolist():
        ending, content = reader.read(row)
        key, label = f"{row:0{_SAMPLE_DIGITS}}", int(images.labels[row])
        sample = {f"{key}.{ending}": content}
        if label != UNKNOWN:
            sample[f"{key}.cls"] = str(label).encode()
        if names:
            sample[f"{key}.json"] = json.dumps({"name": name_text(names[row])}).encode()
        yield sample


class _Reader:
    """The images of a set as files.

    Args:
        images: The set, which may be a part of another or several together.
    """

    def __init__(self, images: Images) -> None:
        self._leaves: list[Images] = []
        # A part of the images, or several sets together, is the same part of their places.
        self._places = replace_leaves(images, self._place)

    def _place(self, images: Images) -> ArrayImages:
        places = np.stack([np.full(len(images), len(self._leaves)), np.arange(len(images))], axis=1).astype("<i8")
        self._leaves.append(images)
        return ArrayImages(places.view(np.uint8).reshape(len(images), 16, 1, 1))

    def read(self, row: int) -> tuple[str, bytes]:
        """Return what the name of an image's file ends with, and its content."""
        leaf, place = self._places.read(np.array([row])).reshape(16).view("<i8").tolist()
        images = self._leaves[leaf]
        if isinstance(images, FileImages):
            content = Path(images.paths[place]).read_bytes()
            ending = next((ending for begin, ending in _COPIED.items() if content.startswith(begin)), "")
            if ending:
                return ending, content
        pixels = images.read(np.array([place]))[0]
        buffer = io.BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        return "png", buffer.getvalue()
