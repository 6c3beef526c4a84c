"""Features of a frozen extractor: computed once for several views of each image, and kept in memory-mapped files.

A file holds one pass over one set of images: a kind of view, and the number of the view. Its name is made of what the
features depend on, so that one that is out of date is never read; a run that needs more views adds files. Rows are
computed in blocks whose images do not depend on what is there already, and each finished block is marked: whatever
stops the work, it goes on, and the bytes are the same.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich import filesize
from torch import Tensor, nn
from torch.utils.data import Dataset

from layermatch.console import Reporter
from layermatch.data.cache import CacheError
from layermatch.data.feature_files import BLOCK, DTYPES, FeatureFile, Marks, as_features
from layermatch.data.images import Images, replace_leaves
from layermatch.data.loader import BatchLoader, Guarded, loader_errors
from layermatch.data.passes import progress
from layermatch.data.sources import ImageSet
from layermatch.data.steps import EveryBatch
from layermatch.data.wording import one_line
from layermatch.errors import RunError, UserError, check_choice, check_number
from layermatch.functional.streams import uniforms
from layermatch.runs.quantities import duration

__all__ = [
    "PLAIN",
    "FeatureOptions",
    "FeatureStore",
    "check_can_be_kept",
    "extractor_digest",
]

#: The kind of view that evaluation has: the image as it is.
PLAIN = "plain"

#: Part of the names of files: to be changed with what is computed.
_FORMAT = 1
#: Streams of random numbers of the views, by kind, beyond those of training steps.
_STREAMS = {"weak": 1000, "medium": 1001, "strong": 1002, "local": 1003}
#: Image passes, and seconds, that the speed is measured on before the time is foretold.
_MEASURED_PASSES, _MEASURED_SECONDS = 64, 5.0
#: Two computations of the same features may differ by this much of the largest: on another machine, in fewer bits.
_SAME = {"float32": 1e-3, "bfloat16": 0.1}
_ANOTHER_PLACE = "give another cache_dir=FOLDER, or storage=auto"


class Augmentation(Protocol):
    """What makes a view; see :class:`~layermatch.augment.WeakView`."""

    @property
    def num_draws(self) -> int:
        """Uniforms per sample."""
        ...

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Make the view."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """What features are kept.

    Args:
        views: The views of each kind and image, at least 1.
        seed: The seed of what these views do to an image, at least 0.
        dtype: The type of the numbers, one of :data:`DTYPES`. With ``bfloat16`` the extractor also computes in it,
            under autocast.

    Raises:
        UserError: A value is not legal.
    """

    views: int = 4
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_number("feature_views", self.views, low=1, integer=True)
        check_number("feature_seed", self.seed, low=0, high=2**32 - 1, integer=True)
        check_choice("feature_dtype", self.dtype, DTYPES)

    def count(self, kind: str) -> int:
        """Return the views of one kind; of the image as it is there is one."""
        return 1 if kind == PLAIN else self.views


def extractor_digest(extractor: nn.Module) -> str:
    """Return 64 hexadecimal digits that are others with other weights.

    Args:
        extractor: Any module; its parameters and buffers count, wherever they are.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = extractor_digest(layer)
        >>> _ = layer.requires_grad_(False).bias.add_(1)
        >>> before == extractor_digest(layer)
        False
    """
    digest = hashlib.sha256()
    for name, tensor in extractor.state_dict().items():
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------- computing


class _Recorder:
    """Notes which images are asked for, in their place."""

    shape = (1, 1, 1)

    def __init__(self, count: int) -> None:
        self.asked = np.zeros(count, np.bool_)

    def __len__(self) -> int:
        return len(self.asked)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked[indices] = True
        return np.zeros((len(indices), 1, 1, 1), np.uint8)


@dataclass
class _Set:
    """A set of images that is neither a part of another one nor several together, and what is wanted of it.

    Args:
        images: The images.
        key: What its files are named by, beside the view.
        files: The file of each pass, by (kind, number).
        blocks: The blocks that are wanted of each pass.
    """

    images: Images
    key: str
    files: dict[tuple[str, int], FeatureFile]
    blocks: dict[tuple[str, int], NDArray[np.bool_]]

    def missing(self) -> dict[int, list[tuple[str, int]]]:
        """Return the blocks that have to be computed, each with its passes."""
        found: dict[int, list[tuple[str, int]]] = {}
        for each, wanted in self.blocks.items():
            for block in np.flatnonzero(wanted & ~self.files[each].finished()).tolist():
                found.setdefault(block, []).append(each)
        return dict(sorted(found.items()))


class FeatureStore:
    """The features of a frozen extractor: :meth:`want` them, :meth:`compute` what is missing, and read them.

    Args:
        folder: The folder of the files, an absolute path; it is made when something is written.
        options: How many views, of which seed, and as what numbers.
        kinds: What makes each kind of view.
        normalise: It makes the network's input of uint8 images ``(N, C, H, W)``.
        described: What ``normalise`` depends on, as text.
        digests_of: It gives the digests of a set's images, ``(N,)``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: FeatureOptions,
        kinds: Mapping[str, Augmentation],
        normalise: Callable[[Tensor], Tensor],
        described: str,
        digests_of: Callable[[Images], NDArray[np.uint64]],
    ) -> None:
        self.folder = folder
        self.options = options
        self.kinds = kinds
        self.normalise = normalise
        self.described = described
        self.digests_of = digests_of
        #: The weights that the features are of, and what else of the network they depend on.
        self.weights = self.network_key = ""
        #: Whether the unlabelled pool is among them not augmented.
        self.has_pool = False
        #: Image passes that were computed, and the seconds that they took.
        self.computed, self.seconds = 0, 0.0
        self._sets: dict[int, _Set] = {}
        self._width = 0

    def begin(self, network: nn.Module, extractor: nn.Module, *, width: int) -> None:
        """Say whose features these are.

        Args:
            network: Gives ``(N, D)`` features of normalised images; it is used in :meth:`compute`.
            extractor: Its part whose weights and layers count.
            width: D.
        """
        self.weights = extractor_digest(extractor)
        self._network, self._width = network, width
        resize = getattr(network, "resize", None)  # which is no layer
        self.network_key = hashlib.sha256(f"{self.weights}\n{extractor!r}\n{resize}".encode()).hexdigest()

    def want(self, images: Images, kinds: Sequence[str]) -> None:
        """Have some views of some images, after the next :meth:`compute`.

        Args:
            images: Any set of images.
            kinds: Kinds of views, :data:`PLAIN` or a key of ``kinds``.
        """
        recorders: dict[int, tuple[Images, _Recorder]] = {}

        def record(leaf: Images) -> _Recorder:
            return recorders.setdefault(id(leaf), (leaf, _Recorder(len(leaf))))[1]

        replace_leaves(images, record).read(np.arange(len(images)))
        for leaf, recorder in recorders.values():
            found = self._set_of(leaf)
            rows = np.flatnonzero(recorder.asked)
            for kind in dict.fromkeys(kinds):
                for number in range(self.options.count(kind)):
                    each = kind, number
                    file = found.files.setdefault(each, self._file(found, kind, number))
                    found.blocks.setdefault(each, np.zeros(file.num_blocks, np.bool_))[rows // BLOCK] = True

    def _set_of(self, leaf: Images) -> _Set:
        if id(leaf) not in self._sets:
            content = self.digests_of(leaf).tobytes() + repr((_FORMAT, leaf.shape, self.described)).encode()
            key = hashlib.sha256(f"{self.network_key}\n".encode() + content).hexdigest()
            self._sets[id(leaf)] = _Set(leaf, key, {}, {})
        return self._sets[id(leaf)]

    def _file(self, of: _Set, kind: str, number: int) -> FeatureFile:
        view = None if kind == PLAIN else (repr(self.kinds[kind]), self.kinds[kind].num_draws, self.options.seed)
        key = hashlib.sha256(repr((of.key, kind, view, number, self.options.dtype)).encode()).hexdigest()[:32]
        count = len(of.images)
        path = self.folder / f"{count}x{self._width}-{kind}-{number}-{key}.features"
        return FeatureFile(path, count=count, width=self._width, dtype=self.options.dtype)

    def of_kinds(self, images: Images, wanted: Mapping[str, str]) -> dict[str, list[Images]]:
        """Return rows of features for some images: for each kind those of each view.

        Args:
            images: A set that :meth:`want` was called with, or a part of it.
            wanted: The kinds, by names that do not count.
        """
        return {
            kind: [self._read(images, kind, number) for number in range(self.options.count(kind))]
            for kind in dict.fromkeys(wanted.values())
        }

    def plain(self, part: ImageSet) -> ImageSet:
        """Return the features of a set's images as they are, in the place of the images; see :meth:`of_kinds`."""
        return ImageSet(self._read(part.images, PLAIN, 0), part.labels)

    def _read(self, images: Images, kind: str, number: int) -> Images:
        opened = cache(lambda key: self._sets[key].files[kind, number].open())
        return replace_leaves(images, lambda leaf: opened(id(leaf)))

    # -------------------------------------------------------------------------------------------------------- the work

    @property
    def num_bytes(self) -> int:
        """The bytes of what is wanted."""
        return sum(len(rows) * file.row_bytes for file, rows in self._wanted())

    @property
    def num_passes(self) -> int:
        """What is wanted, in images: a view of an image is one."""
        return sum(len(rows) for _, rows in self._wanted())

    def _wanted(self) -> Iterator[tuple[FeatureFile, NDArray[np.int64]]]:
        """Yield each block that is wanted: its file, and the positions of its images."""
        for of in self._sets.values():
            for each, wanted in of.blocks.items():
                for block in np.flatnonzero(wanted).tolist():
                    yield of.files[each], of.files[each].rows_of(block)

    def compute(self, device: torch.device, *, readers: int) -> None:
        """Compute what is wanted and not there; where another process does so, wait for it.

        Args:
            device: The device to compute on; the network is brought there, and back again.
            readers: The processes that read images; 0 reads them here.

        Raises:
            CacheError: There is no room, or the folder cannot be written to.
            RunError: The features are not finite, or are not those that are kept under this name.
        """
        if self._is_whole():
            self._check_kept(device)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder / f"{self.network_key[:32]}.lock"):
                if not self._is_whole():
                    self._check_kept(device)
                    self._compute(device, readers=readers)
        except OSError as error:
            raise CacheError(
                f"features cannot be written to {self.folder} ({one_line(error)})", _ANOTHER_PLACE
            ) from error

    def _is_whole(self) -> bool:
        return not any(of.missing() for of in self._sets.values())

    def _compute(self, device: torch.device, *, readers: int) -> None:
        work = [(of, of.missing()) for of in self._sets.values()]
        passes = sum(len(rows) for of, missing in work for rows in _rows_of(of, missing))
        self._check_room(work)
        for of, missing in work:
            for each in {each for those in missing.values() for each in those}:
                of.files[each].make()
        total = self.num_passes
        size = filesize.decimal(self.num_bytes)
        there = f", {total - passes:,} of them are there" if total > passes else ""
        Reporter().show(f"features of {total:,} views of images ({size} in {self.folder}{there}): computing {passes:,}")
        started = time.monotonic()
        foretell = _Foretelling(passes)
        with progress("computing features", passes) as advance, self._on(device) as features_of, Marks() as marks:
            for of, missing in work:
                for file, block in self._blocks(of, missing, features_of, readers=readers):
                    marks.add(file, block)
                    count = len(file.rows_of(block))
                    advance(count)
                    foretell.saw(count)
        self.computed += passes
        self.seconds += time.monotonic() - started
        Reporter().show(f"features of {passes:,} views computed ({duration(time.monotonic() - started)})")

    def _blocks(
        self,
        of: _Set,
        missing: Mapping[int, Sequence[tuple[str, int]]],
        features_of: Callable[[Tensor], Tensor],
        *,
        readers: int,
    ) -> Iterator[tuple[FeatureFile, int]]:
        """Compute and write the blocks of a set one after another; give the file and the number of each."""
        rows = [next(iter(of.files.values())).rows_of(block) for block in missing]
        loader = BatchLoader(
            Guarded(_Blocks(of.images, rows)),
            sampler=EveryBatch(len(rows)),
            batch_size=None,
            num_workers=readers,
            # Its own: else it would draw from torch's, and what is there already would change the run.
            generator=torch.Generator(),
        )
        with loader_errors():
            for (block, passes), index, images in zip(missing.items(), rows, loader, strict=True):
                for each in passes:
                    file = of.files[each]
                    file.write(block, self._of_view(images, index, *each, of=of, features_of=features_of))
                    yield file, block

    def _of_view(
        self,
        images: Tensor,
        index: NDArray[np.int64],
        kind: str,
        number: int,
        *,
        of: _Set,
        features_of: Callable[[Tensor], Tensor],
    ) -> Tensor:
        if kind != PLAIN:
            view = self.kinds[kind]
            draws = uniforms(
                seed=self.options.seed,
                stream=_STREAMS[kind],
                start=number * len(of.images) + int(index[0]),
                count=len(index),
                width=view.num_draws,
            )
            images = view(images, torch.from_numpy(draws))
        features = features_of(images)
        if not bool(features.isfinite().all()):
            raise RunError("the extractor gives features that are not finite: look at its weights")
        return features

    @contextmanager
    def _on(self, device: torch.device) -> Iterator[Callable[[Tensor], Tensor]]:
        """Give what computes features of uint8 images, as the network evaluates them."""
        network = self._network
        modes = {module: module.training for module in network.modules()}
        home = next((parameter.device for parameter in network.parameters()), device)
        dtype = DTYPES[self.options.dtype]
        network.eval().to(device)

        def features_of(images: Tensor) -> Tensor:
            autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
            with torch.no_grad(), autocast:
                features: Tensor = network(self.normalise(images.to(device)), heads=()).features
            return features.cpu()

        try:
            yield features_of
        finally:
            torch.clear_autocast_cache()
            network.to(home)
            for module, mode in modes.items():
                module.training = mode

    def _check_room(self, work: Sequence[tuple[_Set, Mapping[int, Sequence[tuple[str, int]]]]]) -> None:
        needed = sum(
            BLOCK * of.files[each].row_bytes for of, missing in work for those in missing.values() for each in those
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise CacheError(
                f"the features need {filesize.decimal(needed)}, but {self.folder} has {filesize.decimal(free)} free",
                _ANOTHER_PLACE,
            )

    def _check_kept(self, device: torch.device) -> None:
        """Compute one block of what is there once more: a part of the network that the name does not tell shows."""
        for of in self._sets.values():
            for each, wanted in of.blocks.items():
                blocks = np.flatnonzero(wanted & of.files[each].finished())
                if not len(blocks):
                    continue
                file = of.files[each]
                index = file.rows_of(int(blocks[0]))[:2]
                kept = as_features(torch.from_numpy(file.open().read(index)), self.options.dtype)
                images = torch.from_numpy(of.images.read(index))
                with self._on(device) as features_of:
                    now = self._of_view(images, index, *each, of=of, features_of=features_of)
                if float((now - kept).abs().max()) > _SAME[self.options.dtype] * float(now.abs().max()):
                    raise RunError(f"{file.path} holds other features than this network gives: delete {self.folder}")
                return


class _Blocks(Dataset[Tensor]):
    """The images of some blocks."""

    def __init__(self, images: Images, rows: Sequence[NDArray[np.int64]]) -> None:
        self.images = images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, block: int) -> Tensor:
        return torch.from_numpy(self.images.read(self.rows[block]))


class _Foretelling:
    """Says once how long the work will take, after the first blocks.

    Args:
        total: The image passes to make.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._since: tuple[int, float] | None = None

    def saw(self, count: int) -> None:
        """Note image passes that were made."""
        self._done += count
        now = time.monotonic()
        if self._since is None:  # the first block also waits for libraries to get ready
            self._since = self._done, now
            return
        done, begun = self._since
        if self.total and self._done - done >= _MEASURED_PASSES and now - begun >= _MEASURED_SECONDS:
            speed = (self._done - done) / (now - begun)
            left = (self.total - self._done) / speed
            Reporter().show(f"computing features: {speed:.1f} a second, about {duration(left)} left")
            self.total = 0


def _rows_of(of: _Set, missing: Mapping[int, Sequence[tuple[str, int]]]) -> list[NDArray[np.int64]]:
    """Return the positions of each image pass that has to be made, block by block."""
    return [of.files[each].rows_of(block) for block, passes in missing.items() for each in passes]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of the machine work at a time; the others wait, and then find what it has left."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        Reporter().show("features: another process computes them: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_can_be_kept(extractor: nn.Module) -> None:
    """Refuse an extractor that learns: its features of today are not those of the next step.

    Args:
        extractor: The extractor.

    Raises:
        UserError: A parameter learns.
    """
    count = sum(parameter.numel() for parameter in extractor.parameters() if parameter.requires_grad)
    if count:
        raise UserError(
            f"storage=features is not legal with an extractor that learns ({count:,} of its parameters do): give "
            "model.tune=frozen, or storage=auto"
        )
