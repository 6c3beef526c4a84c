"""The places where images are kept during a run: on the training device, in memory, on disk, or decoded each time.

Every storage gives the same batches, bit for bit; only speed and memory differ.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich import filesize

from layermatch.console import Reporter
from layermatch.data.blocks import InBlocks, KeptImages
from layermatch.data.cache import ANOTHER_PLACE, CacheError, CacheFolder, default_cache_dir, file_states
from layermatch.data.cache_place import check_cache_dir
from layermatch.data.device_pool import free_memory
from layermatch.data.digests import Digests
from layermatch.data.file_images import FileImages
from layermatch.data.images import ArrayImages, Images, image_bytes, replace_leaves
from layermatch.data.passes import BadFiles, check_all, folder_of, read_all
from layermatch.data.shard_images import ShardImages
from layermatch.data.sources import ImageSet, SourceData
from layermatch.errors import UserError, check_choice
from layermatch.paths import expand, is_folder

__all__ = ["AUTO_CACHE_BYTES", "STORAGES", "Storage", "reads_files"]

#: What ``storage`` may be.
STORAGES = ("auto", "device", "ram", "disk", "lazy", "features")

#: Image files that take more than this decoded (4 GiB) are cached only if the user asks for it, by ``disk``: it holds
#: a million images of 32x32 or 150,000 of 96x96, but not ImageNet-100, which fills 19 GB and takes long to decode.
AUTO_CACHE_BYTES = 4 * 2**30

#: Height and width that images have in the check.
_CHECKED_SIZE = 32

_Caches = list[tuple[Path, FileImages]]


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Keeps a data set's images where ``kind`` says.

    - ``ram``: in memory, one uint8 array for each part; files are read or decoded once, at the start.
    - ``disk``: in files. Mapped ones stay as they are, image files are decoded once into a cache. Images that the
      source read into memory stay there.
    - ``device``: as ``disk``, and the training images also as one uint8 tensor on the device, see
      :class:`~layermatch.data.device_pool.DevicePool`.
    - ``lazy``: as the source gives them, so image files are decoded each time. Before training each is decoded once,
      so that the user hears of all bad ones at once; that one is whole is remembered until it changes.
    - ``auto``: ``disk``; but ``lazy`` for image files that take more than 4 GiB or half of the free disk decoded, or
      where no cache can be written.
    - ``features``: as ``auto``, for computing features of them once, which batches are then made of; see
      :class:`~layermatch.data.features.FeatureStore`. Batches are other ones.

    Images in shards are decoded each time they are read, but with ``ram`` and ``device``.

    For what is written see :class:`~layermatch.data.cache.CacheFolder`.

    Args:
        kind: One of :data:`STORAGES`.
        cache_dir: The folder that caches are written to, an absolute path or one that starts with ``~``; None takes
            :func:`~layermatch.data.cache.default_cache_dir`. Never inside the data set.
        num_workers: The number of processes that decode image files; None takes one for each processor, up to 8.

    Raises:
        UserError: A value is not legal.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> len(Storage(kind="ram").keep(Digits().load()).labelled)
        1437
    """

    kind: str = "auto"
    cache_dir: str | Path | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        check_choice("storage", self.kind, STORAGES)
        check_cache_dir(self.cache_dir)

    def keep(self, content: SourceData, digests: Digests | None = None) -> SourceData:
        """Return the same data set, with its images where they are to be kept.

        Args:
            content: The data set as the source gave it.
            digests: It gets the digests of image files, which are computed as they are decoded; None leaves them alone.

        Raises:
            UserError: There is not enough memory or disk, the cache cannot be written, or image files cannot be used:
                all of them are named.
            RunError: A process that decodes ended.
        """
        leaves = _leaves(content.parts())
        files = [images for images in leaves if isinstance(images, FileImages)]
        bad = BadFiles()
        kept = self._all_in_memory(leaves, bad) if self.kind == "ram" else self._files_kept(files, bad, digests)
        bad.refuse([path for images in files for path in images.paths], write_list=self._cache.write_list)
        return _replaced(content, kept)

    @property
    def folder(self) -> Path:
        """The folder of caches."""
        given = self.cache_dir
        return default_cache_dir() if given is None else expand("cache_dir", given, "a folder")

    @property
    def _cache(self) -> CacheFolder:
        return CacheFolder(self.folder)

    @property
    def _is_auto(self) -> bool:
        return self.kind in {"auto", "features"}

    def _files_kept(self, files: list[FileImages], bad: BadFiles, digests: Digests | None) -> dict[int, Images]:
        if not files:
            return {}
        if self.kind == "lazy" or (self._is_auto and sum(map(image_bytes, files)) > AUTO_CACHE_BYTES):
            return self._checked(files, bad, digests)
        caches = [(self._cache.path_of(images), images) for images in files]
        if self._is_auto and not self._has_room(caches):
            return self._checked(files, bad, digests)
        try:
            return self._all_cached(caches, bad, digests)
        except CacheError as error:
            if not self._is_auto:
                raise
            Reporter().show(f"image files are decoded each time, as {error.reason}")
            return self._checked(files, bad, digests)

    # ------------------------------------------------------------------------------------------------------- memory

    def _all_in_memory(self, leaves: list[Images], bad: BadFiles) -> dict[int, Images]:
        outside = [images for images in leaves if not _is_in_memory(images)]
        needed, free = sum(map(image_bytes, outside)), free_memory(torch.device("cpu"))
        if needed > free:
            count = sum(map(len, outside))
            raise UserError(
                f"storage=ram needs {filesize.decimal(needed)} for {count:,} images, but only "
                f"{filesize.decimal(free)} of memory are free: give storage=disk"
            )
        return {id(images): self._in_memory(images, bad) for images in outside}

    def _in_memory(self, images: Images, bad: BadFiles) -> Images:
        source = images
        if isinstance(images, FileImages):
            cached = self._cache.open(self._cache.path_of(images), images)
            source = images if cached is None else cached
        array = np.empty((len(images), *images.shape), np.uint8)
        done = 0
        for chunk in read_all(source, what="reading images", num_workers=self.num_workers, bad=bad):
            array[done : done + len(chunk)] = chunk
            done += len(chunk)
        kept = ArrayImages(array)
        return KeptImages(kept, like=images) if isinstance(images, InBlocks) else kept  # in the order that they had

    # -------------------------------------------------------------------------------------------------------- cache

    def _has_room(self, caches: _Caches) -> bool:
        needed = sum(image_bytes(images) for _, images in caches)
        is_there = all(self._cache.open(path, images) is not None for path, images in caches)
        return is_there or needed <= _free_disk(self._cache.folder) / 2

    def _all_cached(self, caches: _Caches, bad: BadFiles, digests: Digests | None) -> dict[int, Images]:
        kept: dict[int, Images] = {}
        if any(self._cache.open(path, images) is None for path, images in caches):
            self._delete_stale(caches)
        for path, images in caches:
            cached = self._cache.open(path, images)
            if cached is None and self._write_cache(path, images, bad):
                cached = self._cache.open(path, images)
                if cached is None:
                    raise CacheError(f"the cache {path} cannot be read back", ANOTHER_PLACE)
            # Without a cache one of its files is bad, and the user will hear of it.
            kept[id(images)] = images if cached is None else cached
            if cached is not None and digests is not None:
                digests.note(cached, self._cache.digests(path, cached))
        return kept

    def _delete_stale(self, caches: _Caches) -> None:
        freed = self._cache.delete_stale(dict(caches))
        if freed:
            Reporter().show(f"caches of earlier states of these folders deleted ({filesize.decimal(freed)})")

    def _write_cache(self, path: Path, images: FileImages, bad: BadFiles) -> bool:
        started = time.monotonic()
        chunks = read_all(images, what="caching images", num_workers=self.num_workers, bad=bad)
        is_kept = self._cache.write(path, images, chunks, is_whole=lambda: not bad.has_any_of(images.paths))
        if is_kept:
            size, seconds = filesize.decimal(image_bytes(images)), time.monotonic() - started
            Reporter().show(f"{len(images):,} images cached in {path} ({size}, {seconds:.1f} s)")
        return is_kept

    # -------------------------------------------------------------------------------------------------------- check

    def _checked(self, files: list[FileImages], bad: BadFiles, digests: Digests | None) -> dict[int, Images]:
        """Return the same image files, of which every one was decoded once since it changed."""
        paths = list(dict.fromkeys(path for images in files for path in images.paths))
        folder, states = folder_of(paths), file_states(paths)
        # Of a file that can be decoded, any size can be made. A digest is of one size alone.
        channels, size, _ = files[0].shape if digests is not None else (3, _CHECKED_SIZE, _CHECKED_SIZE)
        known = {} if digests is None else self._cache.file_digests(folder, (channels, size, size))
        is_known = np.isin(states, self._cache.checked(folder))
        if digests is not None:
            is_known &= np.array([state in known for state in states.tolist()], np.bool_)
        unknown = np.flatnonzero(~is_known)
        if len(unknown):
            images = FileImages([paths[row] for row in unknown], size=size, channels=channels)
            try:
                self._check(images, states[unknown], folder=folder, bad=bad, found=known)
            finally:
                if digests is not None:
                    self._cache.remember_file_digests(folder, images.shape, known)
        kept: dict[int, Images] = {id(images): images.checked() for images in files}
        if digests is not None:
            # Whoever has no digest is bad, and the user will hear of it.
            found = {path: known.get(state, 0) for path, state in zip(paths, states.tolist(), strict=True)}
            for images in files:
                digests.note(kept[id(images)], np.array([found[path] for path in images.paths], np.uint64))
        return kept

    def _check(
        self, images: FileImages, states: NDArray[np.uint64], *, folder: str, bad: BadFiles, found: dict[int, int]
    ) -> None:
        """Decode files; ``found`` gets the digests of those that are whole, by the number of the file's state."""
        started = time.monotonic()
        whole: list[int] = []
        try:
            for rows, digests in check_all(images, num_workers=self.num_workers, bad=bad):
                whole.extend(rows)
                found.update(zip(states[np.array(rows, np.int64)].tolist(), digests.tolist(), strict=True))
        finally:  # also what was done before the user stopped it
            self._remember(folder, states[np.array(whole, np.int64)])
        Reporter().show(f"{len(images):,} image files checked ({time.monotonic() - started:.1f} s)")

    def _remember(self, folder: str, states: NDArray[np.uint64]) -> None:
        try:
            self._cache.remember_checked(folder, states)
        except CacheError as error:
            Reporter().show(f"image files are checked at each start, as {error.reason}")


def reads_files(content: SourceData) -> bool:
    """Return whether reading decodes image files, also such as lie in shards.

    Args:
        content: A data set.

    Example:
        >>> from layermatch.data.sources import Digits
        >>> reads_files(Digits().load())
        False
    """
    return any(isinstance(images, FileImages | ShardImages) for images in _leaves(content.parts()))


def _leaves(parts: Mapping[str, ImageSet]) -> list[Images]:
    """Return the sets that the parts are made of, each once."""
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

    return replace(
        content,
        labelled=exchanged(content.labelled) or content.labelled,
        unlabelled=exchanged(content.unlabelled),
        validation=exchanged(content.validation),
        test=exchanged(content.test),
    )


def _is_in_memory(images: Images) -> bool:
    return isinstance(images, ArrayImages) and not images.is_on_disk


def _free_disk(folder: Path) -> int:
    there = next((place for place in (folder, *folder.parents) if is_folder(place)), Path("/"))
    return shutil.disk_usage(there).free
