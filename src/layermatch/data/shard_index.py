"""Which images a shard has, where in it they lie, and which labels it gives them.

A shard is a plain tar file as WebDataset lays it out: members whose names are equal up to the first dot of the last
part are one sample, so ``000012.jpg``, ``000012.cls`` and ``000012.json`` belong together.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from layermatch.data.decoding import image_endings
from layermatch.data.wording import composed, name_text, one_line
from layermatch.files import replacing

__all__ = ["SUFFIX", "BadShardError", "ShardIndex", "build_index", "label_text"]

#: What the index of ``x.tar`` is called beside it: ``x.index.npz``.
SUFFIX = ".index.npz"
#: To be changed with what an index holds.
_FORMAT = 1
#: A tar file consists of blocks, and ends with two that are zero.
_BLOCK = 512
#: Between the names of an index: no name of a file has it.
_BETWEEN = "\0"
#: The keys of a ``.json`` member that may hold the label, the first that is there counts.
_LABEL_KEYS = ("label", "cls", "class")
#: No label is longer, and no ``.json`` member that is looked into.
_MOST_LABEL, _MOST_JSON = 1000, 2**20


class BadShardError(Exception):
    """A shard cannot be used; the message is what is wrong with it, on one line."""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """What is in a shard.

    Args:
        size: The size of the shard in bytes, by which one that was cut off or written anew is found.
        offsets: ``(n,)`` uint64, where the bytes of each image begin.
        sizes: ``(n,)`` uint32, how many they are.
        labels: ``(n,)`` int32, the position in ``classes`` of the label of each sample, -1 where it has none.
        names: The name of the member of each image.
        classes: The labels that occur, as they are written, sorted.

    Example:
        >>> none = np.empty(0, np.uint64)
        >>> len(ShardIndex(1024, none, none.astype(np.uint32), none.astype(np.int32), (), ()))
        0
    """

    size: int
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint32]
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    def save(self, path: Path) -> None:
        """Write the index; the file is whole, or not there.

        Raises:
            OSError: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file,
                about=np.array([_FORMAT, self.size, len(self)], np.int64),
                offsets=self.offsets,
                sizes=self.sizes,
                labels=self.labels,
                names=_packed(self.names),
                classes=_packed(self.classes),
            )

    @staticmethod
    def load(path: Path, *, names: bool = True) -> ShardIndex | None:
        """Read an index; None where there is none that is whole.

        Args:
            path: The path of the file.
            names: Whether the names are read, which are most of it.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                known, size, count = found["about"].tolist()
                read = _unpacked(found["names"]) if names else ()
                index = ShardIndex(
                    size, found["offsets"], found["sizes"], found["labels"], read, _unpacked(found["classes"])
                )
        # A file that was cut off or is something else can fail in many ways.
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, AttributeError, zipfile.BadZipFile):
            return None
        is_whole = known == _FORMAT and len(index.sizes) == len(index.labels) == len(index) == count
        return index if is_whole and (not names or len(read) == count) else None


def build_index(path: Path) -> ShardIndex:
    """Read through the heads of a shard's members.

    Args:
        path: The path of the shard.

    Returns:
        Its images, in their order. Members that belong to no image are left out, and so is all but the first image of
        a sample.

    Raises:
        BadShardError: It cannot be read, it is cut off, or it is no plain tar file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            members = list(_members(file, size))
            labels = _labels_of(file, members)
    except tarfile.TarError as error:
        raise BadShardError(_reason(path, error)) from error
    except OSError as error:
        raise BadShardError(error.strerror or one_line(error)) from error
    endings, images = image_endings(), dict[str, tarfile.TarInfo]()
    for member in members:
        key, ending = _parted(member.name)
        if f".{ending.rpartition('.')[2]}" in endings:
            images.setdefault(key, member)
    classes = tuple(sorted({labels[key] for key in images if key in labels}))
    numbers = {label: number for number, label in enumerate(classes)}
    return ShardIndex(
        size,
        np.array([member.offset_data for member in images.values()], np.uint64),
        np.array([member.size for member in images.values()], np.uint32),
        np.array([numbers.get(labels.get(key, ""), -1) for key in images], np.int32),
        tuple(member.name for member in images.values()),
        classes,
    )


def label_text(content: bytes) -> str:
    r"""Return the label that a ``.cls`` member holds; empty where it holds none.

    Args:
        content: The member: a whole number or a name, in UTF-8.

    Example:
        >>> label_text(b" 07\n"), label_text(b"cat"), label_text(b"")
        ('7', 'cat', '')
    """
    text = composed(name_text(content[:_MOST_LABEL].decode("utf-8", "surrogateescape").strip()))
    return str(int(text)) if text.isascii() and text.isdecimal() else text


def _members(file: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar file, and see that it is whole."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.offset_data + member.size > size:
                raise BadShardError(f"it is cut off in {name_text(member.name)}")
            if member.isfile():
                if member.issparse():
                    raise BadShardError(f"{name_text(member.name)} is stored with holes: pack it without them")
                yield member
        end = tar.offset  # where the zeros begin, or should
    file.seek(end)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise BadShardError("it is cut off: its end is missing")


def _reason(path: Path, error: tarfile.TarError) -> str:
    with suppress(OSError), path.open("rb") as file:
        begin = file.read(4)
        if begin[:2] == b"\x1f\x8b" or begin[:3] == b"BZh" or begin == b"\x28\xb5\x2f\xfd":
            return "it is compressed: unpack it, as single images are read from it"
        if not begin:
            return "it is empty"
    text = one_line(error)
    return "it is cut off" if "unexpected end of data" in text else f"it is no whole tar file ({text})"


def _parted(name: str) -> tuple[str, str]:
    """Return the key of the sample that a member belongs to, and what follows it."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _labels_of(file: BinaryIO, members: list[tarfile.TarInfo]) -> dict[str, str]:
    """Return the labels of samples by their keys; a ``.cls`` member counts before a ``.json`` one."""
    found: dict[str, dict[str, str]] = {"json": {}, "cls": {}}
    for member in members:
        key, ending = _parted(member.name)
        if ending in found and member.size <= _MOST_JSON:
            file.seek(member.offset_data)
            content = file.read(member.size)
            found[ending][key] = label_text(content) if ending == "cls" else _label_in(content)
    return {key: label for labels in found.values() for key, label in labels.items() if label}


def _label_in(content: bytes) -> str:
    if not any(f'"{key}"'.encode() in content for key in _LABEL_KEYS):
        return ""
    try:
        fields = json.loads(content)
    except ValueError:
        return ""
    for key in _LABEL_KEYS:
        value = fields.get(key) if isinstance(fields, dict) else None
        if isinstance(value, str | int) and not isinstance(value, bool):
            return label_text(str(value).encode("utf-8", "surrogateescape"))
    return ""


def _packed(names: tuple[str, ...]) -> NDArray[np.uint8]:
    text = "".join(f"{name}{_BETWEEN}" for name in names)
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def _unpacked(packed: NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(packed.tobytes().decode("utf-8", "surrogateescape").split(_BETWEEN)[:-1])
