"""One pass over all pictures: each is decoded once, and what is to be compared of it is kept."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from layermatch.data.decoding import ImageFileError, open_picture
from layermatch.data.file_images import FileImages
from layermatch.data.images import Images
from layermatch.data.loader import BatchLoader, loader_errors
from layermatch.data.passes import progress
from layermatch.errors import RunError, UserError

__all__ = ["TINT", "Looks", "hash_function", "look_at"]

#: Height and width of the small colour copy by which hashes that are alike are compared once more.
TINT = 8
#: Fewer pictures than this are looked at in this process: it takes less time than to start others.
_FEW = 500
_MOST_WORKERS = 8
_AT_ONCE = 64


class _Look(NamedTuple):
    width: int
    height: int
    digest: bytes
    hash: int
    tint: bytes


@dataclass(frozen=True, eq=False)
class Looks:
    """What was seen of N pictures, in their order.

    Attributes:
        sizes: ``(N, 2)`` int32, width and height in pixels; 0 of pictures that cannot be read.
        digests: The digest of the decoded pixels of each; empty of those.
        hashes: ``(N,)`` uint64, the perceptual hash of each.
        tints: ``(N, TINT, TINT, 3)`` uint8, each in few pixels.
        reasons: Why a picture cannot be read, by its position.
    """

    sizes: NDArray[np.int32]
    digests: tuple[bytes, ...]
    hashes: NDArray[np.uint64]
    tints: NDArray[np.uint8]
    reasons: dict[int, str]

    @property
    def is_whole(self) -> NDArray[np.bool_]:
        """``(N,)``, whether each can be read."""
        return self.sizes[:, 0] > 0


def hash_function() -> Callable[[Image.Image], Any]:
    """Return the perceptual hash: 64 signs of the lowest frequencies of a picture's brightness (pHash).

    Raises:
        UserError: The package for it is not installed.
    """
    try:
        phash: Callable[[Image.Image], Any] = import_module("imagehash").phash
    except ImportError as error:
        raise UserError("check needs the package imagehash: pip install 'layermatch[check]'") from error
    return phash


def look_at(images: Images, *, what: str, num_workers: int | None) -> Looks:
    """Decode every picture of a part once.

    Args:
        images: The pictures; files are seen at their own sizes.
        what: What is being done, for the bar.
        num_workers: The number of processes that decode; None takes one for each processor, up to 8.

    Raises:
        UserError: The package for hashes is not installed.
        RunError: A process ended.
    """
    hash_function()  # before any process is started
    chunks = _Chunks(images)
    workers = 0
    if len(images) >= _FEW:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if num_workers is None else num_workers
    loader = BatchLoader(
        chunks, batch_size=None, num_workers=workers, generator=torch.Generator(), collate_fn=_as_it_is
    )
    seen: list[_Look | str] = []
    with loader_errors(), progress(what, len(images)) as advance:
        for chunk in loader:
            seen.extend(chunk)
            advance(len(chunk))
    return _joined(seen)


def _as_it_is(chunk: Any) -> Any:
    return chunk


class _Chunks(Dataset[Any]):
    """The pictures, some at a time; in the place of one that cannot be read, why."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return math.ceil(len(self.images) / _AT_ONCE)

    def __getitem__(self, chunk: int) -> list[_Look | str]:
        rows = range(chunk * _AT_ONCE, min((chunk + 1) * _AT_ONCE, len(self.images)))
        phash = hash_function()
        return [picture if isinstance(picture, str) else _look(picture, phash) for picture in self._pictures(rows)]

    def _pictures(self, rows: Sequence[int]) -> Iterator[Image.Image | str]:
        if isinstance(self.images, FileImages):
            for row in rows:
                try:
                    yield open_picture(self.images.paths[row])
                except ImageFileError as error:
                    yield error.reason
            return
        for pixels in self._read(rows):
            if isinstance(pixels, str):
                yield pixels
            else:
                yield Image.fromarray(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0])

    def _read(self, rows: Sequence[int]) -> Iterable[NDArray[np.uint8] | str]:
        """Read pictures at once, or one by one where one of them cannot be read: a shard refuses all for it."""
        try:
            return self.images.read(np.array(rows, np.int64))
        except (RunError, ImageFileError):
            return map(self._read_one, rows)

    def _read_one(self, row: int) -> NDArray[np.uint8] | str:
        try:
            pixels: NDArray[np.uint8] = self.images.read(np.array([row], np.int64))[0]
        except (RunError, ImageFileError) as error:
            return str(error)
        return pixels


def _look(picture: Image.Image, phash: Callable[[Image.Image], Any]) -> _Look:
    pixels = picture.tobytes()
    shape = f"{picture.mode} {picture.width} {picture.height} ".encode()
    signs = np.packbits(np.asarray(phash(picture).hash, bool).ravel())
    tint = picture.convert("RGB").resize((TINT, TINT), Image.Resampling.BOX)
    return _Look(
        picture.width,
        picture.height,
        hashlib.blake2b(shape + pixels, digest_size=16).digest(),
        int.from_bytes(signs.tobytes(), "big"),
        tint.tobytes(),
    )


def _joined(seen: Sequence[_Look | str]) -> Looks:
    nothing = _Look(0, 0, b"", 0, bytes(3 * TINT**2))
    looks = [nothing if isinstance(one, str) else one for one in seen]
    tints = np.frombuffer(b"".join(look.tint for look in looks), np.uint8)
    return Looks(
        sizes=np.array([(look.width, look.height) for look in looks], np.int32).reshape(-1, 2),
        digests=tuple(look.digest for look in looks),
        hashes=np.array([look.hash for look in looks], np.uint64),
        tints=tints.reshape(-1, TINT, TINT, 3),
        reasons={row: one for row, one in enumerate(seen) if isinstance(one, str)},
    )
