"""Whether the images of a split are those of a data set: by their names, and by what is in them.

A position says nothing once a file was renamed, added or removed. Files are known by their names relative to the root
and by their bytes, images in arrays by their positions and their pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from layermatch.data.file_images import FileImages
from layermatch.data.images import Images
from layermatch.data.sources import SourceData
from layermatch.data.sources.base import shorten
from layermatch.data.splits import Split
from layermatch.data.wording import composed, printable
from layermatch.errors import UserError

__all__ = ["MOST_LOOKED_INTO", "digest_of", "identify", "place"]

#: The most images that are looked into, evenly spaced among all; the names of all are compared.
MOST_LOOKED_INTO = 2000


def identify(split: Split, content: SourceData) -> Split:
    """Let a split know its images.

    Args:
        split: The positions in the training pool of ``content``.
        content: A data set.

    Returns:
        The split with names (of files) and digests.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> len(identify(Split(0, 1437, (3, 4), (5,)), Digits().load()).contents)
        3
    """
    positions = split.positions
    names = content.image_ids.get("labelled", ())
    return replace(
        split,
        names=tuple(names[position] for position in positions) if names else (),
        contents=_contents(content, positions),
        pool=_training_files(content),
    )


def place(split: Split, content: SourceData) -> tuple[Split, str]:
    """Find the images of a split in a data set, which may have got further files or lost unlabelled ones.

    Args:
        split: The split, drawn from this data set, maybe at another time.
        content: The data set.

    Returns:
        The split with its positions in this data set; and what the user should know, on one line, or nothing.

    Raises:
        UserError: Some of its images are not there or have other contents; or it does not say which files it is of.
    """
    names = content.image_ids.get("labelled", ())
    pool_size = len(content.labelled)
    remark = ""
    if bool(split.names) != bool(names) and split.knows_its_images:
        raise UserError(f"{split.title} is of {_kind(split.names)}, but this data set holds {_kind(names)}")
    if split.names:
        split = _place_by_name(split, names)
    elif split.origin and not split.knows_its_images:
        remark = _trust_positions(split, are_files=bool(names))
    split.check(pool_size=pool_size)
    placed = identify(split, content)
    _check_contents(split, placed)
    if split.pool and split.pool != placed.pool:
        remark = (
            f"{split.title} was drawn when other files were there ({_count(split.pool)} training images then, "
            f"{_count(placed.pool)} now): its {len(placed.names):,} {_parts(placed)} are all there unchanged"
            f"{'' if placed.unlabelled else ', the unlabelled ones are those of now'}"
        )
    return placed, remark


def digest_of(content: SourceData) -> str:
    """Return sixteen digits that are the same for the same data set, wherever it lies.

    Names of classes, labels and names of all images count, and what is in up to :data:`MOST_LOOKED_INTO` images of each
    part.

    Args:
        content: The data set.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> digest_of(Digits().load()) == digest_of(Digits().load())
        True
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(chr(0).join(map(composed, content.classes)).encode("utf-8", "surrogatepass"))
    digest.update(content.pool.encode())
    for part, images in content.parts().items():
        if content.pool and part == "unlabelled":  # that says it, and of as many as these nothing can be listed
            continue
        names = chr(0).join(map(composed, content.image_ids.get(part, ())))
        found = _looked_into(images.images, range(len(images)), [b""] * len(images))
        digest.update(f"\n{part}\n{names}\n{' '.join(found)}\n".encode("utf-8", "surrogatepass"))
        digest.update(images.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _place_by_name(split: Split, names: Sequence[str]) -> Split:
    where = {name: position for position, name in enumerate(names)}
    # A copy on another system may spell the same name with accents of their own. The contents are compared anyway.
    alike = {composed(name): position for name, position in where.items()}
    found = [where.get(name, alike.get(composed(name))) for name in split.names]
    gone = [name for name, position in zip(split.names, found, strict=True) if position is None]
    if gone:
        raise _other_images(split, gone, "are not there")
    positions = tuple(position for position in found if position is not None)
    first, second = len(split.labelled), len(split.labelled) + len(split.validation)
    return replace(
        split,
        pool_size=len(names),
        labelled=positions[:first],
        validation=positions[first:second],
        unlabelled=positions[second:],
    )


def _check_contents(split: Split, placed: Split) -> None:
    # Nothing is known of images that were not looked into, then or now.
    pairs = enumerate(zip(split.contents, placed.contents, strict=False))
    changed = [row for row, (then, now) in pairs if then and now and then != now]
    if changed:
        shown = [placed.names[row] if placed.names else f"image {placed.positions[row]}" for row in changed]
        raise _other_images(split, shown, "have another content now")


def _other_images(split: Split, names: Iterable[str], what: str) -> UserError:
    shown = [printable(name) for name in names]
    return UserError(
        f"{split.title} is not of these images: {len(shown):,} of its {len(split.positions):,} {_parts(split)} {what} "
        f"({shorten(shown, 3)}): give the data set that it is of, with these images as they were"
    )


def _parts(split: Split) -> str:
    """Return what the images are that a split names."""
    return "labelled, validation and unlabelled images" if split.unlabelled else "labelled and validation images"


def _trust_positions(split: Split, *, are_files: bool) -> str:
    """Return what to say of a split that holds positions alone, as earlier versions wrote them."""
    if are_files:
        raise UserError(
            f"{split.title} does not say which files it is of, as an earlier version wrote it, and files may have been "
            "added, removed or renamed since: draw another split, split=null and no ckpt_path"
        )
    return f"{split.title} does not say which images it is of, as an earlier version wrote it: taken by position"


def _kind(names: Sequence[str]) -> str:
    return f"image files ({shorten([printable(name) for name in names], 1)})" if names else "no image files"


def _training_files(content: SourceData) -> str:
    """Return the number of all training files and a digest of their names; empty where images are not files."""
    if content.pool:
        return content.pool
    names = [*content.image_ids.get("labelled", ()), *content.image_ids.get("unlabelled", ())]
    joined = chr(0).join(sorted(map(composed, names))).encode("utf-8", "surrogatepass")
    return f"{len(names)}:{_digest(joined)}" if names else ""


def _count(training_files: str) -> str:
    return training_files.partition(":")[0]


def _contents(content: SourceData, positions: Sequence[int]) -> tuple[str, ...]:
    """Return a digest for each image, empty for those that are not looked into.

    Where names do not say it, the class of the image is digested as well: a table may have been corrected meanwhile.
    """
    labels = content.labelled.labels
    classes = [] if content.are_labels_in_names else [name.encode() for name in content.classes]
    more = [classes[labels[position]] for position in positions] if classes else [b""] * len(positions)
    return _looked_into(content.labelled.images, positions, more)


def _looked_into(images: Images, positions: Sequence[int], more: Sequence[bytes]) -> tuple[str, ...]:
    rows = np.unique(np.linspace(0, len(positions) - 1, min(len(positions), MOST_LOOKED_INTO)).astype(np.int64))
    found = [""] * len(positions)
    for row in rows.tolist():
        found[row] = _content(images, positions[row], more=more[row])
    return tuple(found)


def _content(images: Images, position: int, *, more: bytes) -> str:
    if not isinstance(images, FileImages):
        return _digest(images.read(np.array([position], np.int64)).tobytes() + more)
    try:
        return _digest(Path(images.paths[position]).read_bytes() + more)
    except OSError:
        return ""  # the check of all files, which follows, says what is wrong with it


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
