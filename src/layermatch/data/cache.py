"""The folder where decoded images are kept between runs, and which image files are known to be whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from rich import filesize

from layermatch.data.cache_place import default_cache_dir
from layermatch.data.digests import Digests, image_digests
from layermatch.data.file_images import FileImages
from layermatch.data.images import ArrayImages, image_bytes
from layermatch.data.passes import folder_of
from layermatch.data.wording import one_line
from layermatch.errors import UserError
from layermatch.files import replacing, unfinished_in

__all__ = ["ANOTHER_PLACE", "CacheError", "CacheFolder", "default_cache_dir", "file_states"]

#: Part of the names of what is kept: to be changed with what decoding gives.
_FORMAT = 3
#: What the names of kept digests end with.
_DIGESTS = ".digests"
#: Seconds after which nobody writes an unfinished file any more.
_ABANDONED = 24 * 3600.0
#: What to do where there is no room for a cache.
ANOTHER_PLACE = "give another cache_dir=FOLDER, or storage=lazy"


class CacheError(UserError):
    """No cache can be written.

    Args:
        reason: What stands in the way.
        remedy: What to give instead.

    Attributes:
        reason: The reason that was given.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}: {remedy}")
        self.reason = reason


class CacheFolder:
    """Decoded image files, and the memory of a check.

    - ``<images>-<shape>-<fingerprint>.npy``: uint8 ``(N, C, H, W)``. The fingerprint is that of the files with their
      sizes and times of change, and of the version of Pillow, so a cache that is out of date is never used.
    - The same with ``.json``: which files it was made of, so that it can be deleted when it is out of date.
    - The same with ``.digests``: a number for each image, by which those that are identical are found.
    - ``checked-<fingerprint of a folder>.npy``: one number for each file that was decoded without an error, again
      of its size and time of change.
    - The same with the shape of images and ``.digests``: such a number for each file, and one for its image.

    All of it may be deleted at any time, also during a run, which holds open what it reads.

    Args:
        folder: The folder, an absolute path; it is made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path_of(self, images: FileImages) -> Path:
        """Return the cache of some images, whether it is there or not."""
        digest = hashlib.sha256(repr((_FORMAT, PIL.__version__, images.shape)).encode())
        for name in images.paths:
            digest.update(_state(name))
        shape = "x".join(map(str, images.shape))
        return self.folder / f"{len(images)}-{shape}-{digest.hexdigest()[:32]}.npy"

    def open(self, path: Path, images: FileImages) -> ArrayImages | None:
        """Return the cache at ``path``, if it is there and holds ``images``."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            fits = isinstance(array, np.memmap) and array.dtype == np.uint8
            return ArrayImages(array) if fits and array.shape == (len(images), *images.shape) else None
        except (OSError, ValueError, EOFError):  # missing, cut off, or no such file at all
            return None

    def write(
        self, path: Path, images: FileImages, chunks: Iterable[NDArray[np.uint8]], *, is_whole: Callable[[], bool]
    ) -> bool:
        """Write a cache.

        Args:
            path: The path of the cache; see :meth:`path_of`.
            images: The images that the cache is of.
            chunks: The pixels of the images, in order.
            is_whole: A function that is asked at the end whether every image could be decoded; else nothing is kept.

        Returns:
            Whether the cache was kept.

        Raises:
            CacheError: There is no room, or the folder cannot be written to.
        """
        needed = image_bytes(images)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise CacheError(
                    f"the cache of {len(images):,} images needs {filesize.decimal(needed)}, but {self.folder} has "
                    f"{filesize.decimal(free)} free",
                    ANOTHER_PLACE,
                )
            digests = [np.empty(0, np.uint64)]
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                # Plain writes, not a map: a full disk is then an error, and not the end of the process.
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images.shape)}
                np.lib.format.write_array_header_1_0(file, header)
                for chunk in chunks:
                    file.write(chunk.data)
                    digests.append(image_digests(chunk))
                if not is_whole():
                    raise _NotWhole
            _Record.of(images).write(path.with_suffix(".json"))
            _save_if_possible(path.with_suffix(_DIGESTS), np.concatenate(digests))
        except _NotWhole:
            return False
        except OSError as error:
            reason = f"the cache cannot be written to {self.folder} ({one_line(error)})"
            raise CacheError(reason, ANOTHER_PLACE) from error
        return True

    def digests(self, path: Path, cached: ArrayImages) -> NDArray[np.uint64]:
        """Return the digests of a cache's images; where they are not there they are computed and kept.

        Args:
            path: The path of the cache.
            cached: Its ``N`` images.

        Returns:
            ``(N,)``; see :func:`~layermatch.data.digests.image_digests`.
        """
        found = _load_numbers(path.with_suffix(_DIGESTS))
        if found.shape != (len(cached),):
            found = Digests().of(cached)
            _save_if_possible(path.with_suffix(_DIGESTS), found)
        return found

    # -------------------------------------------------------------------------------------------------- old caches

    def delete_stale(self, kept: Mapping[Path, FileImages]) -> int:
        """Delete caches of the same folders that no run will use again, and what stopped runs left unfinished.

        A cache is stale if one of its files was changed or deleted, or if one of ``kept`` has all its files and more.

        Args:
            kept: The caches in use, with their images.

        Returns:
            The bytes that are free again.
        """
        freed = 0
        in_use = [_Record.of(images) for images in kept.values()]
        for path in sorted(self.folder.glob("*-*.json")):
            record = _Record.read(path)
            cache = path.with_suffix(".npy")
            if record is not None and cache not in kept and self._is_stale(cache, record, in_use):
                freed += _delete(cache) + _delete(path) + _delete(cache.with_suffix(_DIGESTS))
        for path, _ in unfinished_in(self.folder):
            freed += _delete(path, older_than=_ABANDONED)
        return freed

    def _is_stale(self, cache: Path, record: _Record, in_use: Sequence[_Record]) -> bool:
        of_same_folder = [other for other in in_use if other.folder == record.folder]
        if any(other.shape == record.shape and record.files <= other.files for other in of_same_folder):
            return True
        return bool(of_same_folder) and self.path_of(record.images()) != cache

    # ------------------------------------------------------------------------------------------------------- checks

    def checked(self, folder: str) -> NDArray[np.uint64]:
        """Return the :func:`file_states` of the files of a data set that were decoded without an error.

        Args:
            folder: The deepest folder that all files of the data set are below.
        """
        return _load_numbers(self._check_path(folder))

    def remember_checked(self, folder: str, states: NDArray[np.uint64]) -> None:
        """Add files to those of :meth:`checked`.

        Args:
            folder: The folder of the data set.
            states: The :func:`file_states` of the files before they were decoded.

        Raises:
            CacheError: Nothing can be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._check_path(folder)) as unfinished, unfinished.open("wb") as file:
                np.save(file, np.union1d(self.checked(folder), states))
        except OSError as error:
            raise CacheError(f"{self.folder} cannot be written to ({one_line(error)})", ANOTHER_PLACE) from error

    def file_digests(self, folder: str, shape: Sequence[int]) -> dict[int, int]:
        """Return the digest of each image that was checked at a shape, by the :func:`file_states` number of its file.

        Args:
            folder: The deepest folder that all files of the data set are below.
            shape: ``(C, H, W)`` that the images were decoded to.
        """
        numbers = _load_numbers(self._file_digests_path(folder, shape))
        pairs = numbers.tolist() if numbers.ndim == 2 and numbers.shape[1] == 2 else []
        return dict(pairs)

    def remember_file_digests(self, folder: str, shape: Sequence[int], digests: Mapping[int, int]) -> None:
        """Keep what :meth:`file_digests` gives, where that is possible.

        Args:
            folder: The deepest folder that all files of the data set are below.
            shape: ``(C, H, W)`` that the images were decoded to.
            digests: All digests, by the number of the file's state.
        """
        pairs = np.array(list(digests.items()), np.uint64).reshape(-1, 2)
        _save_if_possible(self._file_digests_path(folder, shape), pairs)

    def _file_digests_path(self, folder: str, shape: Sequence[int]) -> Path:
        path = self._check_path(folder)
        return path.with_name(f"{path.stem}-{'x'.join(map(str, shape))}{_DIGESTS}")

    def _check_path(self, folder: str) -> Path:
        return self.folder / f"checked-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.npy"

    def write_list(self, lines: Iterable[str]) -> Path | None:
        """Keep a list of files that is too long for the terminal; None where that is not possible."""
        path = self.folder / "unreadable-images.txt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
        except OSError:
            return None
        return path


@dataclass(frozen=True)
class _Record:
    """What a cache was made of.

    Attributes:
        folder: The deepest folder that all files are below.
        shape: ``(C, H, W)``.
        ordered: The files relative to the folder, in the order of the images.
    """

    folder: str
    shape: tuple[int, ...]
    ordered: tuple[str, ...]

    @staticmethod
    def of(images: FileImages) -> _Record:
        folder = folder_of(images.paths)
        return _Record(folder, images.shape, tuple(os.path.relpath(name, folder) for name in images.paths))

    @staticmethod
    def read(path: Path) -> _Record | None:
        """Return the record in a file; None if it holds none: then nobody knows what its cache was made of."""
        try:
            content = json.loads(path.read_bytes())
            record = _Record(content["folder"], tuple(content["shape"]), tuple(content["files"]))
            record.images()
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return record

    def write(self, path: Path) -> None:
        content = {"folder": self.folder, "shape": self.shape, "files": self.ordered}
        with replacing(path) as unfinished:
            unfinished.write_bytes(json.dumps(content).encode())

    def images(self) -> FileImages:
        channels, size, _ = self.shape
        paths = [os.path.join(self.folder, name) for name in self.ordered]  # noqa: PTH118 -- 100,000 Paths take a second
        return FileImages(paths, size=size, channels=channels)

    @cached_property
    def files(self) -> frozenset[str]:
        return frozenset(self.ordered)


class _NotWhole(Exception):  # noqa: N818 -- no error: the end of a write
    """An image of a cache could not be decoded."""


def _load_numbers(path: Path) -> NDArray[np.uint64]:
    """Return the numbers in a file; none where there is no such file, or it is damaged."""
    try:
        numbers: NDArray[np.uint64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.empty(0, np.uint64)
    return numbers if numbers.dtype == np.uint64 else np.empty(0, np.uint64)


def _save_if_possible(path: Path, numbers: NDArray[np.uint64]) -> None:
    """Keep numbers that would otherwise be computed again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.save(file, numbers)


def _delete(path: Path, *, older_than: float = -1.0) -> int:
    """Delete a file where that is possible; the bytes that are free again."""
    try:
        status = path.stat()
        if time.time() - status.st_mtime <= older_than:
            return 0
        path.unlink()
    except OSError:
        return 0  # it is not there, its folder is no folder, or it is not ours
    return status.st_size


def _state(name: str) -> bytes:
    """Return the state of a file, which is another one after the file was changed."""
    path = os.path.abspath(name)  # noqa: PTH100 -- as above
    try:
        status = os.stat(path)  # noqa: PTH116 -- as above
    except OSError:
        return os.fsencode(path) + b"\0gone\n"  # decoding it will say so
    return os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode()


def file_states(paths: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number for each file that is another one after the file was changed, or with another Pillow.

    Args:
        paths: The paths of ``N`` files, there or not.

    Returns:
        ``(N,)``.
    """
    salt = repr((_FORMAT, PIL.__version__)).encode()
    digests = b"".join(hashlib.blake2b(salt + _state(path), digest_size=8).digest() for path in paths)
    return np.frombuffer(digests, np.uint64)
