"""Where images are kept during a run: on the training device, in memory, in a file on disk, or decoded each time.

Every storage gives the same batches, bit for bit; only speed and memory differ.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from layermatch.console import Reporter
from layermatch.data.images import ArrayImages, FileImages, Images, one_line, replace_leaves
from layermatch.data.sources import ImageSet, SourceData
from layermatch.data.steps import RawBatch, ViewedSet
from layermatch.errors import UserError, check_choice

__all__ = [
    "AUTO_CACHE_BYTES",
    "STORAGES",
    "DevicePool",
    "Storage",
    "check_device_fits",
    "default_cache_dir",
    "free_memory",
    "image_bytes",
    "reads_files",
]

#: What ``data.storage`` may be.
STORAGES = ("auto", "device", "ram", "disk", "lazy")

#: Image files that take more than this decoded (4 GiB) are cached only if the user asks for it, by ``disk``: it holds
#: a million images of 32x32 or 150,000 of 96x96, but not ImageNet-100, which fills 19 GB and takes long to decode.
AUTO_CACHE_BYTES = 4 * 2**30

#: Part of a cache file's name: to be changed with what the file holds.
_FORMAT = 1
#: Images are decoded, read and copied about so many bytes at a time: workers hand them over in shared memory, of which
#: a container may have 64 MB.
_CHUNK_BYTES = 2**20
#: Fewer image files than this are decoded in this process: it takes less time than to start others.
_FEW_FILES = 500
_MAX_WORKERS = 8
#: Seconds between two lines about the progress of a cache.
_LINE_EVERY = 20.0


class _CacheError(UserError):
    """No cache can be written."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Keeps a data set's images where ``kind`` says.

    - ``ram``: in memory, one uint8 array for each part; files are read or decoded once, at the start.
    - ``disk``: in files. Mapped ones stay as they are, image files are decoded once into a cache. Images that the
      source read into memory stay there.
    - ``device``: as ``disk``, and the training images also as one uint8 tensor on the device, see :class:`DevicePool`.
    - ``lazy``: as the source gives them, so image files are decoded each time.
    - ``auto``: ``disk``; but ``lazy`` for image files that take more than 4 GiB or half of the free disk decoded, or
      where no cache can be written.

    A cache is a ``.npy`` file of uint8 ``(N, C, H, W)``, named after what it was made of: the files with their sizes
    and times of change, the size and channels of the images, and the version of Pillow. So one that is out of date is
    never used. It may be deleted at any time between runs.

    Args:
        kind: one of :data:`STORAGES`.
        cache_dir: where caches are written, an absolute path or one that starts with ``~``; None takes
            :func:`default_cache_dir`. Never inside the data set.
        num_workers: processes that decode image files; None takes one for each processor, up to 8.

    Raises:
        UserError: a value is not legal.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> len(Storage(kind="ram").keep(Digits().load()).labelled)
        1437
    """

    kind: str = "auto"
    cache_dir: str | Path | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.storage", self.kind, STORAGES)
        folder: object = self.cache_dir
        if folder is not None and not (isinstance(folder, str | Path) and Path(folder).expanduser().is_absolute()):
            raise UserError(f"data.cache_dir={folder!r} is not legal: give an absolute path, or null for the default")

    def keep(self, content: SourceData) -> SourceData:
        """The same data set, with its images where they are to be kept.

        Args:
            content: as the source gave it.

        Raises:
            UserError: there is not enough memory or disk, the cache cannot be written, or an image cannot be read.
        """
        leaves = _leaves(content.parts())
        if self.kind == "ram":
            return _replaced(content, self._all_in_memory(leaves))
        files = [images for images in leaves if isinstance(images, FileImages)]
        if self.kind == "lazy" or not files or (self.kind == "auto" and not self._is_worth_a_cache(files)):
            return content
        try:
            return _replaced(content, {id(images): self._cached(images) for images in files})
        except _CacheError as error:
            if self.kind != "auto":
                raise
            Reporter().show(f"image files are decoded each time, as {error}")
            return content

    # ------------------------------------------------------------------------------------------------------- memory

    def _all_in_memory(self, leaves: list[Images]) -> dict[int, Images]:
        outside = [images for images in leaves if not _is_in_memory(images)]
        needed, free = sum(map(image_bytes, outside)), free_memory(torch.device("cpu"))
        if needed > free:
            raise UserError(
                f"data.storage=ram needs {_size(needed)} for {_count(outside)}, but only {_size(free)} of memory are "
                "free: give data.storage=disk"
            )
        return {id(images): self._in_memory(images) for images in outside}

    def _in_memory(self, images: Images) -> Images:
        source = images
        if isinstance(images, FileImages):
            source = _open_cache(self._cache_path(images), images) or images
        array = np.empty((len(images), *images.shape), np.uint8)
        done = 0
        with _progress("reading images", len(images)) as advance:
            for chunk in self._chunks(source):
                array[done : done + len(chunk)] = chunk
                done += len(chunk)
                advance(len(chunk))
        return ArrayImages(array)

    # -------------------------------------------------------------------------------------------------------- cache

    @property
    def _folder(self) -> Path:
        return default_cache_dir() if self.cache_dir is None else Path(self.cache_dir).expanduser()

    def _is_worth_a_cache(self, files: list[FileImages]) -> bool:
        needed = sum(map(image_bytes, files))
        if needed > AUTO_CACHE_BYTES:
            return False
        has_room = needed <= _free_disk(self._folder) / 2
        return has_room or all(_open_cache(self._cache_path(images), images) for images in files)

    def _cache_path(self, images: FileImages) -> Path:
        shape = "x".join(map(str, images.shape))
        return self._folder / f"{len(images)}-{shape}-{_fingerprint(images)}.npy"

    def _cached(self, images: FileImages) -> Images:
        path = self._cache_path(images)
        cached = _open_cache(path, images)
        if cached is None:
            self._write_cache(images, path)
            cached = _open_cache(path, images)
        if cached is None:
            raise _CacheError(f"the cache {path} cannot be read back: give another data.cache_dir, or storage=lazy")
        return cached

    def _write_cache(self, images: FileImages, path: Path) -> None:
        started, needed = time.monotonic(), image_bytes(images)
        # Under a name of its own until it is complete: two runs may start at once, and one may be stopped.
        unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
            if needed > free:
                raise _CacheError(
                    f"the cache of {_count([images])} needs {_size(needed)}, but {path.parent} has {_size(free)} free: "
                    "give another data.cache_dir, or data.storage=lazy"
                )
            with unfinished.open("xb") as file:
                self._write_array(images, file)
            unfinished.replace(path)
        except OSError as error:
            raise _CacheError(
                f"the cache cannot be written to {path.parent} ({one_line(error)}): give another data.cache_dir, or "
                "data.storage=lazy"
            ) from error
        finally:
            _delete(unfinished)
        seconds = time.monotonic() - started
        Reporter().show(f"{_count([images])} cached in {path} ({_size(needed)}, {seconds:.1f} s)")

    def _write_array(self, images: FileImages, file: BinaryIO) -> None:
        # Plain writes, not a map: a full disk is then an error, and not the end of the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *images.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        with _progress("caching images", len(images)) as advance:
            for chunk in self._chunks(images):
                file.write(chunk.data)
                advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())

    def _chunks(self, images: Images) -> Iterator[NDArray[np.uint8]]:
        """All images in order, some at a time; image files are decoded by several processes."""
        workers = 0
        if isinstance(images, FileImages) and len(images) >= _FEW_FILES:
            workers = min(os.cpu_count() or 1, _MAX_WORKERS) if self.num_workers is None else self.num_workers
        # Its own generator: else the loader would draw from torch's, and whether there is a cache would change that.
        loader = DataLoader(_Chunks(images), batch_size=None, num_workers=workers, generator=torch.Generator())
        for chunk in loader:
            if isinstance(chunk, str):
                raise UserError(chunk)
            yield chunk.numpy()


class _Chunks(Dataset[NDArray[np.uint8] | str]):
    """A set's images, about a megabyte at a time; in the place of images that cannot be read, the reason."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.rows = max(1, _CHUNK_BYTES // max(int(np.prod(images.shape)), 1))

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.rows)

    def __getitem__(self, chunk: int) -> NDArray[np.uint8] | str:
        first = chunk * self.rows
        try:
            return self.images.read(np.arange(first, min(first + self.rows, len(self.images))))
        except UserError as error:
            return str(error)  # an exception would come out of a worker with its traceback in the message


# ----------------------------------------------------------------------------------------------------------- device


class DevicePool:
    """The training images on the training device, as one uint8 tensor; batches are picked there.

    Args:
        pool: the images that training batches are made of.
        labelled_rows: ``(L,)`` int64, the position in the pool of each labelled image.
        device: where to keep them.

    Raises:
        UserError: the device has not enough free memory.

    Example:
        >>> images = ArrayImages(np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1))
        >>> pool = DevicePool(images, labelled_rows=np.array([2]), device=torch.device("cpu"))
        >>> pool.images.flatten().tolist()
        [0, 1, 2, 3]
    """

    def __init__(self, pool: Images, *, labelled_rows: NDArray[np.int64], device: torch.device) -> None:
        check_device_fits(len(pool), pool.shape, device)
        self.device = device
        self.images = torch.empty((len(pool), *pool.shape), dtype=torch.uint8, device=device)
        self.labelled_rows = torch.from_numpy(labelled_rows).to(device)
        rows = max(1, _CHUNK_BYTES // max(int(np.prod(pool.shape)), 1))
        for first in range(0, len(pool), rows):
            chunk = pool.read(np.arange(first, min(first + rows, len(pool))))
            self.images[first : first + len(chunk)] = torch.from_numpy(chunk)

    def fill(self, raw: RawBatch) -> RawBatch:
        """Put the images into a batch that holds only their positions.

        Args:
            raw: on the device of the pool.
        """
        labelled = self._pick(raw.labelled, self.labelled_rows[raw.labelled.indices])
        unlabelled = raw.unlabelled
        return RawBatch(labelled, None if unlabelled is None else self._pick(unlabelled, unlabelled.indices))

    def _pick(self, part: ViewedSet, rows: Tensor) -> ViewedSet:
        return part._replace(images=self.images[rows])


def check_device_fits(count: int, shape: tuple[int, int, int], device: torch.device) -> None:
    """Refuse a pool that is larger than the free memory of a device.

    Args:
        count: number of images.
        shape: ``(C, H, W)`` of each.
        device: where they are to be kept.

    Raises:
        UserError: they do not fit; says what is needed, what is free, and what to use.

    Example:
        >>> check_device_fits(10**9, (3, 96, 96), torch.device("cpu"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        layermatch.errors.UserError: data.storage=device needs 27.6 TB for 1,000,000,000 images, but cpu has ...
    """
    needed, free = count * int(np.prod(shape, dtype=np.int64)), free_memory(device)
    if needed > free:
        host = torch.device("cpu")
        better = "ram" if device.type != "cpu" and needed <= free_memory(host) else "disk"
        raise UserError(
            f"data.storage=device needs {_size(needed)} for {count:,} images, but {device} has {_size(free)} free: "
            f"give data.storage={better}"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be used on a device; of the CPU what the system can make free without swapping.

    Args:
        device: a CPU, CUDA or MPS device.

    Example:
        >>> free_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    system = Path("/proc/meminfo")
    if system.is_file():
        values = dict(line.split(":", 1) for line in system.read_text().splitlines())
        return int(values["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ------------------------------------------------------------------------------------------------------ image sets


def image_bytes(images: Images) -> int:
    """Bytes of a set of images as uint8.

    Args:
        images: any set of images.

    Example:
        >>> image_bytes(ArrayImages(np.zeros((5, 3, 8, 8), np.uint8)))
        960
    """
    return len(images) * int(np.prod(images.shape, dtype=np.int64))


def reads_files(content: SourceData) -> bool:
    """Whether reading decodes image files.

    Args:
        content: a data set.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> reads_files(Digits().load())
        False
    """
    return any(isinstance(images, FileImages) for images in _leaves(content.parts()))


def _leaves(parts: Mapping[str, ImageSet]) -> list[Images]:
    """The sets that the parts are made of, each once."""
    found: dict[int, Images] = {}

    def note(images: Images) -> Images:
        found[id(images)] = images
        return images

    for part in parts.values():
        replace_leaves(part.images, note)
    return list(found.values())


def _replaced(content: SourceData, new: Mapping[int, Images]) -> SourceData:
    def exchanged(part: ImageSet | None) -> ImageSet | None:
        if part is None:
            return None
        return replace(part, images=replace_leaves(part.images, lambda images: new.get(id(images), images)))

    labelled = exchanged(content.labelled) or content.labelled
    return replace(content, labelled=labelled, unlabelled=exchanged(content.unlabelled), test=exchanged(content.test))


def _is_in_memory(images: Images) -> bool:
    return isinstance(images, ArrayImages) and not images.is_on_disk


# ------------------------------------------------------------------------------------------------------ cache files


def default_cache_dir() -> Path:
    """The user's cache directory: ``layermatch`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is to be ignored (XDG Base Directory Specification).
    return (given if given.is_absolute() else Path("~/.cache").expanduser()) / "layermatch"


def _fingerprint(images: FileImages) -> str:
    """A name for the pixels of image files: another one after a file was changed, and with another Pillow."""
    digest = hashlib.sha256(repr((_FORMAT, PIL.__version__, images.shape)).encode())
    for name in images.paths:
        path = Path(name).absolute()
        try:
            status = path.stat()
        except OSError as error:
            raise UserError(f"cannot read the image {name}: {one_line(error)}") from error
        digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _open_cache(path: Path, images: FileImages) -> ArrayImages | None:
    """The cache of ``images``, if it is there and whole."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, cut off, or no such file at all
        return None
    fits = isinstance(array, np.memmap) and array.dtype == np.uint8 and array.shape == (len(images), *images.shape)
    return ArrayImages(array) if fits else None


def _free_disk(folder: Path) -> int:
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
    return shutil.disk_usage(there).free


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # its folder is no folder, or not ours: nothing was written there


# ------------------------------------------------------------------------------------------------------------- text


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere a line now and then, so that short work has none."""
    reporter = Reporter()
    if reporter.is_interactive:
        columns = (TextColumn(text), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn())
        with Progress(*columns, console=reporter.terminal, transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            reporter.show(f"{text}: {done:,} of {total:,}")

    yield advance


def _count(sets: Iterable[Images]) -> str:
    return f"{sum(len(images) for images in sets):,} images"


def _size(number: float) -> str:
    """Bytes for people.

    >>> _size(2_903_040_000)
    '2.9 GB'
    """
    units = ("bytes", "kB", "MB", "GB", "TB")
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {units[-1]}"
