"""Data sets in shards: tar files as WebDataset and img2dataset write them, read in place."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from layermatch.data.cache_place import default_cache_dir
from layermatch.data.loader import BatchLoader, loader_errors
from layermatch.data.manifest import Row, read_manifest
from layermatch.data.passes import progress
from layermatch.data.shard_images import ChosenImages, Shard, StreamedImages
from layermatch.data.shard_index import SUFFIX, BadShardError, ShardIndex, build_index
from layermatch.data.sources.base import UNKNOWN, ImageSet, SourceData, shorten
from layermatch.data.sources.files import is_no_class
from layermatch.data.sources.listing import check_folder_settings, check_root_folder
from layermatch.data.wording import composed, one_line, printable
from layermatch.errors import UserError, check_choice, check_number
from layermatch.paths import check_path, expand

__all__ = ["BAD_SHARDS", "CLASSES", "LIST", "UNFINISHED_LIST", "Shards"]

#: What ``bad_shards`` may be.
BAD_SHARDS = ("error", "skip")
#: The list of a folder's shards, as WebDataset's tools write and read it; ours while shards are still being written.
LIST, UNFINISHED_LIST = "index.json", "unfinished.json"
#: The names of the classes, one a line, where labels are their numbers.
CLASSES = "classes.txt"
#: What a shard is for, by how its name, or that of its folder, begins; others are for training.
_PARTS = {"val": "validation", "test": "test"}
_OF_PART = re.compile(r"(val|test)(?:id|idation|ing)?(?![a-z])", re.IGNORECASE)
#: Fewer shards than this are read through in this process.
_FEW_SHARDS = 16
_MAX_WORKERS = 8
#: A shard's number is the last in its name.
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)\.tar")

_Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Images in tar files, read from where they lie without being unpacked or copied.

    The layout is that of WebDataset: members whose names are equal up to the first dot are one sample, with an image
    and perhaps its label, in a ``.cls`` member (a number or a name) or in a ``.json`` member (``label``, ``cls`` or
    ``class``). Labels that are numbers are positions in ``classes.txt`` below the root, one name a line, or their own
    names. Samples with a label are the pool that labels are drawn from, those without are further unlabelled images.
    Shards whose names, or the names of whose folder, begin with ``val`` or ``test`` are validation and test set.

    An index of each shard says where its images lie; ``python -m layermatch.shard`` writes it beside the shard, and for
    shards of other programs it is made once and kept in ``index_dir``. That of the unlabelled images stays on disk.

    Args:
        root: The folder that the shards are below, on this machine or mounted from another.
        manifest: A table that has the labels instead of the shards, see :mod:`layermatch.data.manifest`: its paths are
            those of images in shards, such as ``train-000000.tar/000012.jpg``, and its rows those with a label or with
            another split than ``train``. None takes the labels in the shards.
        image_size: The height and width in pixels that images are resized and cropped to.
        channels: 1 (grey) or 3 (RGB).
        window: The number of shards whose images are mixed with each other, at least 1.
        bad_shards: What is done with shards that are missing or cut off: ``error`` names them, ``skip`` goes without.
        index_dir: The folder of the indexes; None is ``shards`` in the user's cache directory.

    Raises:
        UserError: A value is not legal; from :meth:`load`, there are no shards, or not what they should be.

    Example:
        >>> Shards(root="no/such/folder", image_size=32).load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: root='no/such/folder' is not a folder: ...
    """

    root: str | Path
    image_size: int
    channels: int = 3
    manifest: str | Path | None = None
    window: int = 8
    bad_shards: str = "error"
    index_dir: str | Path | None = None

    def __post_init__(self) -> None:
        check_folder_settings(self.root, self.image_size, self.channels)
        if self.manifest is not None:
            check_path("manifest", self.manifest, "a CSV or Parquet file")
        check_number("window", self.window, low=1, integer=True)
        check_choice("bad_shards", self.bad_shards, BAD_SHARDS)
        if self.index_dir is not None:
            check_path("index_dir", self.index_dir, "a folder")

    def load(self) -> SourceData:
        """Find the shards and their labels; no image is decoded."""
        root = check_root_folder(self.root, "shards (.tar)")
        samples, bad = self._samples(root)
        notes = self._shards_left(root, samples, bad)
        if self.manifest is None:
            classes = _classes(root, samples)
        else:
            rows = _label_by_manifest(expand("manifest", self.manifest, "a CSV or Parquet file"), samples)
            classes = tuple(sorted({label for each in samples for label in each.labels.values()}))
            notes |= {"labels": f"{rows:,} rows of {printable(str(self.manifest))}"}
        return self._content(root, samples, classes, notes)

    # ------------------------------------------------------------------------------------------------------- shards

    def _samples(self, root: Path) -> tuple[list[_Samples], dict[str, str]]:
        """Return what is in the shards that are whole, and what is wrong with the others by their names."""
        files = _find(root, index_dir=self._index_dir)
        if not files:
            raise UserError(f"root={str(self.root)!r} has no shards: give a folder that holds .tar files")
        bad = _missing(root, [file.name for file in files])
        found = {file: _Samples.of(file) for file in files}
        bad |= _make_indexes([file for file, samples in found.items() if samples is None])
        for file, samples in found.items():
            if samples is None and file.name not in bad:
                found[file] = _Samples.of(file)
        whole = {file: samples for file, samples in found.items() if samples is not None and samples.bytes == file.size}
        for file in found.keys() - whole.keys():
            bad.setdefault(file.name, "it is cut off, or another one than when its index was written")
        return list(whole.values()), bad

    @property
    def _index_dir(self) -> Path:
        given = self.index_dir
        return default_cache_dir() / "shards" if given is None else expand("index_dir", given, "a folder")

    def _shards_left(self, root: Path, samples: Sequence[_Samples], bad: Mapping[str, str]) -> dict[str, str]:
        """Return what the plan says of the shards; bad ones are refused, or counted."""
        shown = shorten([f"{printable(name)}: {why}" for name, why in sorted(bad.items())], 3)
        total = len(samples) + len(bad)
        if bad and (self.bad_shards == "error" or not samples):
            remedy = ", or bad_shards=skip to go without" if samples else ""
            raise UserError(
                f"{len(bad):,} of {total:,} shards below {printable(str(root))} cannot be used ({shown}): put them "
                f"there again{remedy}"
            )
        if not any(each.shard.size for each in samples):
            raise UserError(f"root={str(self.root)!r}: there is no image in its {total:,} shards")
        mixed = f"{len(samples):,}, {min(self.window, len(samples)):,} of them mixed at a time"
        left = f"; {len(bad):,} of {total:,} left out ({shown})" if bad else ""
        return {"shards": mixed + left}

    # ---------------------------------------------------------------------------------------------------- data set

    def _content(
        self, root: Path, samples: Sequence[_Samples], classes: tuple[str, ...], notes: dict[str, str]
    ) -> SourceData:
        of_part = {part: [each for each in samples if each.part == part] for part in ("labelled", *_PARTS.values())}
        numbers = {name: number for number, name in enumerate(classes)}
        sets: dict[str, ImageSet] = {}
        ids: dict[str, tuple[str, ...]] = {}
        for part in of_part:
            rows = [each.rows_of(part) for each in samples]
            labels = [numbers.get(each.labels.get(row, ""), UNKNOWN) for each in samples for row in each.rows_of(part)]
            if labels:
                make = partial(ChosenImages, size=self.image_size, channels=self.channels, window=self.window)
                sets[part] = ImageSet(make([each.shard for each in samples], rows), np.array(labels, np.int64))
                ids[part] = tuple(name for each in samples for name in each.names_of(part))
        if "labelled" not in sets:
            raise UserError(
                f"no training image in the shards below {printable(str(root))} has a label: give some a .cls member, "
                "or manifest=TABLE"
            )
        _check_classes(root, sets, classes)
        training = of_part["labelled"]
        streamed = StreamedImages(
            [each.shard for each in training],
            [each.taken for each in training],
            size=self.image_size,
            channels=self.channels,
            window=self.window,
        )
        without = sum(each.shard.size - len(each.taken) for each in samples if each.part != "labelled")
        if without:
            notes["not used"] = f"{without:,} images without a label in shards of validation and test images"
        # One number for all of them: what an unlabelled image costs in memory must not depend on how many there are.
        unknown = np.broadcast_to(np.int64(UNKNOWN), (len(streamed),))
        return SourceData(
            classes=classes,
            labelled=sets["labelled"],
            unlabelled=ImageSet(streamed, unknown) if len(streamed) else None,
            validation=sets.get("validation"),
            test=sets.get("test"),
            image_ids=ids,
            notes=notes,
            are_labels_in_names=False,
            pool=_identity(training),
        )


# -------------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _File:
    """A tar file below the root.

    Attributes:
        path: Its path.
        name: Its path relative to the root, with ``/``.
        size: Its size in bytes.
        kept: The place of its index where there is none beside it.
    """

    path: Path
    name: str
    size: int
    kept: Path

    @property
    def index(self) -> Path:
        """The index that is used."""
        beside = self.path.with_name(self.path.name.removesuffix(".tar") + SUFFIX)
        return beside if beside.is_file() else self.kept


def _find(root: Path, *, index_dir: Path) -> list[_File]:
    """Return the tar files below a folder, sorted by name."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_no_class(name))
        for name in names:
            if name.endswith(".tar") and not name.startswith("."):
                path = Path(folder, name)
                try:
                    status = path.stat()
                except OSError:
                    continue  # a link to nothing is a shard that is missing
                state = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape")
                kept = index_dir / f"{hashlib.sha256(state).hexdigest()[:32]}{SUFFIX}"
                found.append(_File(path, path.relative_to(root).as_posix(), status.st_size, kept))
    return sorted(found, key=lambda file: file.name)


def _missing(root: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the shards that should be there, and why: the list says so, or the numbers around it."""
    listed = _listed(root)
    if listed is not None:
        return dict.fromkeys(sorted(listed - set(names)), f"it is missing, and {LIST} has it")
    numbers: dict[tuple[str, int], set[int]] = {}
    for name in names:
        found = _NUMBERED.fullmatch(name)
        if found:
            numbers.setdefault((found["stem"], len(found["number"])), set()).add(int(found["number"]))
    gone: dict[str, str] = {}
    for (stem, width), those in numbers.items():
        # Of other numbers than those of shards, such as dates, there are not nearly all.
        if max(those) - min(those) < 2 * len(those):
            gone |= {
                f"{stem}{number:0{width}}.tar": "it is missing"
                for number in sorted(set(range(min(those), max(those))) - those)
            }
    # img2dataset writes what became of a shard beside it.
    for path in root.rglob("*_stats.json"):
        name = path.relative_to(root).as_posix().removesuffix("_stats.json") + ".tar"
        found = _NUMBERED.fullmatch(name)
        if name not in names and found and (found["stem"], len(found["number"])) in numbers:
            gone[name] = "it is missing, and its _stats.json is there"
    return gone


def _listed(root: Path) -> set[str] | None:
    """Return the shards that the list beside them has; None where there is no list."""
    if (root / UNFINISHED_LIST).is_file() and not (root / LIST).is_file():
        raise UserError(
            f"the shards below {printable(str(root))} are unfinished: give python -m layermatch.shard its settings "
            "again, which goes on"
        )
    try:
        content = json.loads((root / LIST).read_text(encoding="utf-8"))
        return {str(shard["url"]).removeprefix("./") for shard in content["shardlist"]}
    except (OSError, ValueError, LookupError, TypeError):
        return None  # there is none, or it is another program's file of this name


class _Indexing(Dataset[str]):
    """Makes indexes; each item says what is wrong with a shard, or nothing."""

    def __init__(self, files: Sequence[_File]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> str:
        file = self.files[number]
        try:
            index = build_index(file.path)
        except BadShardError as error:
            return f"bad {error}"
        try:
            index.save(file.kept)
        except OSError as error:
            return f"unwritten {one_line(error)}"
        return ""


def _make_indexes(files: Sequence[_File]) -> dict[str, str]:
    """Make the indexes of shards that have none; what is wrong with those that cannot be used, by their names."""
    if not files:
        return {}
    workers = min(os.cpu_count() or 1, _MAX_WORKERS) if len(files) >= _FEW_SHARDS else 0
    loader = BatchLoader(_Indexing(files), batch_size=None, num_workers=workers, generator=torch.Generator())
    bad = {}
    with loader_errors(), progress("reading through shards", len(files)) as advance:
        for file, said in zip(files, loader, strict=True):
            kind, _, reason = said.partition(" ")
            if kind == "unwritten":
                raise UserError(
                    f"the index of a shard cannot be written to {printable(str(file.kept.parent))} ({reason}): give "
                    "another index_dir=FOLDER"
                )
            if kind:
                bad[file.name] = reason
            advance(1)
    return bad


# -------------------------------------------------------------------------------------------------------------- labels


@dataclass(eq=False)
class _Samples:
    """What is known of a shard's samples; of those without a label, their number.

    Attributes:
        shard: The shard.
        file: Its file.
        bytes: Its size when it was read through.
        part: What its images are for, unless a manifest says otherwise.
        labels: The label of each sample that has one, by its place.
        names: The name of the member of each of these.
        parts: What a sample is for, by its place, where it is not what its shard is for: ``ignored``, for example.
    """

    shard: Shard
    file: _File
    bytes: int
    part: str
    labels: dict[int, str]
    names: dict[int, str]
    parts: dict[int, str]

    @staticmethod
    def of(file: _File) -> _Samples | None:
        """Read the index of a file; None where there is none."""
        place = file.index
        index = ShardIndex.load(place, names=False)
        if index is None:
            return None
        rows = np.flatnonzero(index.labels >= 0).tolist()
        index = ShardIndex.load(place) if rows else index  # of all others the names would fill the memory
        if index is None:
            return None
        labels = {row: index.classes[index.labels[row]] for row in rows}
        names = {row: index.names[row] for row in rows}
        return _Samples(
            Shard(str(file.path), str(place), len(index)), file, index.size, _part(file.name), labels, names, {}
        )

    def label(self, rows: Mapping[str, Row]) -> str:
        """Take the labels of a table, by the member's name; return the first that is not there, or nothing."""
        index = ShardIndex.load(self.file.index) if rows else None
        places = {} if index is None else {name: place for place, name in enumerate(index.names)}
        self.labels, self.names, self.parts, self.part = {}, {}, {}, "labelled"
        for member, row in rows.items():
            if member not in places:
                return member
            place = places[member]
            if row.label and row.split != "ignored":
                self.labels[place], self.names[place] = row.label, member
            if row.split != "train":
                self.parts[place] = _PARTS.get(row.split, "ignored")
        return ""

    def rows_of(self, part: str) -> _Rows:
        """Return the places of the samples with a label that are of a part."""
        rows = sorted(row for row in self.labels if self.parts.get(row, self.part) == part)
        return np.array(rows, np.int64)

    def names_of(self, part: str) -> list[str]:
        """Return the names of the same samples."""
        return [f"{self.file.name}/{self.names[row]}" for row in self.rows_of(part).tolist()]

    @property
    def taken(self) -> _Rows:
        """The places of the samples that are no unlabelled ones."""
        return np.array(sorted({*self.labels, *self.parts}), np.int64)


def _part(name: str) -> str:
    """Return what a shard is for."""
    words = [name.rpartition("/")[2], name.partition("/")[0] if "/" in name else ""]
    found = [_OF_PART.match(word) for word in words]
    return next((_PARTS[match[1].lower()] for match in found if match), "labelled")


def _classes(root: Path, samples: Sequence[_Samples]) -> tuple[str, ...]:
    """Return the classes, after labels that are numbers were given names."""
    written = {label for each in samples for label in each.labels.values()}
    are_numbers = all(label.isascii() and label.isdecimal() for label in written)
    try:
        names = [composed(line.strip()) for line in (root / CLASSES).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return tuple(sorted(written, key=int) if are_numbers else sorted(written))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {printable(str(root / CLASSES))}: {one_line(error)}") from error
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{printable(str(root / CLASSES))} is not legal: give each class a line and a name of its own")
    if are_numbers:
        above = [label for label in written if int(label) >= len(names)]
        if above:
            raise UserError(
                f"the label {above[0]} of an image is none of the {len(names)} classes of "
                f"{printable(str(root / CLASSES))}, which are numbered from 0"
            )
        for each in samples:
            each.labels = {row: names[int(label)] for row, label in each.labels.items()}
        return tuple(names)
    unknown = sorted(written - set(names))
    if unknown:
        raise UserError(
            f"the label {printable(unknown[0])} of an image is none of the classes of {printable(str(root / CLASSES))}"
        )
    return tuple(names)


def _label_by_manifest(file: Path, samples: Sequence[_Samples]) -> int:
    """Put the labels of a table in the place of those in the shards; how many rows it has."""
    rows = read_manifest(file)
    of_shard: dict[str, dict[str, Row]] = {}
    for row in rows:
        name, found, member = row.path.partition(".tar/")
        of_shard.setdefault(name + ".tar" if found else row.path, {})[member] = row
    for each in samples:
        gone = each.label(of_shard.pop(each.file.name, {}))
        if gone:
            raise UserError(
                f"manifest={printable(str(file))}: there is no image {printable(gone)} in {printable(each.file.name)}"
            )
    if of_shard:
        first = next(iter(next(iter(of_shard.values())).values())).path
        raise UserError(
            f"manifest={printable(str(file))}: {printable(first)} is in no shard that is there: give paths such as "
            f"{printable(samples[0].file.name)}/000012.jpg"
        )
    return len(rows)


def _check_classes(root: Path, sets: Mapping[str, ImageSet], classes: Sequence[str]) -> None:
    """Refuse evaluated images of a class that no training image has."""
    learnt = np.unique(sets["labelled"].labels)
    for part in _PARTS.values():
        others = np.setdiff1d(sets[part].labels, learnt) if part in sets else np.empty(0, np.int64)
        if len(others):
            names = shorten([printable(classes[number]) for number in others.tolist()])
            raise UserError(
                f"no training image in the shards below {printable(str(root))} has the label {names}, which {part} "
                "images have: label some"
            )


def _identity(training: Sequence[_Samples]) -> str:
    """Return the number of training images, and a digest of where they lie."""
    places = "\n".join(f"{each.file.name}\0{each.shard.size}\0{len(each.parts)}" for each in training)
    digest = hashlib.blake2b(places.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{sum(each.shard.size - len(each.parts) for each in training)}:{digest}"
