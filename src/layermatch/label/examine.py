"""A process that finds how alike the pictures are and what a model thinks of them; the page starts it.

It looks at a seeded sample first, and at a larger one then, until it has seen all: so proposals come within seconds,
and get better. It goes on where it was stopped. Each line that it prints is JSON: how many pictures it has looked at,
and the folder of what it found whenever a sample is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from layermatch.data.decoding import open_picture
from layermatch.errors import UserError
from layermatch.files import replacing, unfinished_in, unfinished_of

__all__ = ["Task", "examine", "main"]

#: To be changed with what is found.
_FORMAT = 2
#: Pictures between two lines, and in one file.
_CHUNK = 250
#: Each sample is so many times as large as the one before.
_GROWS = 4
#: Numbers that are left of a picture's features.
_NUMBERS = 32
#: The side of the pictures whose pixels are features where there is no model.
_SIDE = 16
#: Above so many pictures, k-means takes a part of them at a time.
_MANY = 20_000
#: What was found for so many models and folders is kept, and all of the last hour.
_KEPT, _RECENT = 3, 3600.0

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What to look at.

    Args:
        root: The folder of the pictures.
        paths: The pictures, relative to it.
        cache: The folder in which it is kept what is found.
        ckpt_path: The checkpoint of the model; None for features of pixels.
        seed: The seed of the samples and of k-means.
        sample: The number of pictures of the first sample, at least 1.
        clusters: The number of clusters, at least 1.
    """

    root: str
    paths: Sequence[str]
    cache: str
    ckpt_path: str | None = None
    seed: int = 0
    sample: int = 1000
    clusters: int = 50

    def file_of(self, number: int) -> str:
        """Return the file of a picture."""
        return os.path.join(self.root, self.paths[number])  # noqa: PTH118 -- 100,000 Paths take a second

    def sizes(self) -> list[int]:
        """Return the sizes of the samples.

        Example:
            >>> Task("pictures", ["a.jpg"] * 5000, "cache").sizes()
            [1000, 4000, 5000]
        """
        sizes = [min(self.sample, len(self.paths))]
        while sizes[-1] < len(self.paths):
            sizes.append(min(sizes[-1] * _GROWS, len(self.paths)))
        return sizes

    def folder(self) -> Path:
        """Return a folder that is another one if the model or any file is."""
        digest = hashlib.sha256(repr((_FORMAT, self.seed, self.sample, self.clusters)).encode())
        for name in (self.ckpt_path or "", *map(self.file_of, range(len(self.paths)))):
            digest.update(ascii((name, _state(name))).encode())
        return Path(self.cache) / digest.hexdigest()[:32]


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 -- as above
    except OSError:
        return (0, 0)
    return status.st_size, status.st_mtime_ns


class Looked(NamedTuple):
    """What was seen of some pictures.

    Attributes:
        is_read: ``(n,)`` bool, whether each could be decoded.
        features: ``(n, D)`` float32, zeros where it could not.
        probabilities: ``(n, K)`` float32, of each class; no column where there is no model.
    """

    is_read: NDArray[np.bool_]
    features: Float
    probabilities: Float


def examine(task: Task, say: Callable[[Mapping[str, Any]], None]) -> None:
    """Look at the pictures, sample after sample.

    Args:
        task: What to look at.
        say: A function that is called with how many pictures were looked at, and after each sample with its folder:
            ``indices.npy`` (the numbers of the pictures), ``clusters.npy``, ``distances.npy`` (each to the centre of
            its cluster) and ``probabilities.npy`` (no columns without a model), with a row for each picture that could
            be read; ``classes.json`` has the names of the classes.

    Raises:
        UserError: The model cannot be loaded, or nothing can be written.
    """
    folder, total = task.folder(), len(task.paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _delete_old(Path(task.cache), but=folder)
        with FileLock(folder / ".lock"):  # another server may look at the same pictures
            reader = _Reader(task, folder, say)
            for size in task.sizes():
                found = folder / f"first-{size}"
                if not found.is_dir():
                    reader.write(found, reader.read(size))
                say({"looked": size, "total": total, "found": str(found)})
    except BrokenPipeError:  # nobody listens any more
        raise
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}: give another data.cache_dir"
        ) from error


class _Reader:
    """The pictures in a seeded order, chunk after chunk; what was seen of a chunk is kept."""

    def __init__(self, task: Task, folder: Path, say: Callable[[Mapping[str, Any]], None]) -> None:
        self.task, self.folder, self.say = task, folder, say
        self.order = np.random.default_rng(task.seed).permutation(len(task.paths)).astype(np.int32)
        self._eye: _Pixels | _Model | None = None
        self._said = 0
        self._axes = _load(folder / "axes.npz", ("mean", "components"))

    @property
    def eye(self) -> _Pixels | _Model:
        """The model is loaded when something has to be looked at."""
        if self._eye is None:
            self._eye = _Pixels() if self.task.ckpt_path is None else _Model(self.task.ckpt_path)
        return self._eye

    def read(self, size: int) -> Looked:
        """Return what was seen of the first pictures; the first sample says along which axes features are kept.

        Of a sample of which no picture can be read nothing is kept: the next one says it.
        """
        parts: list[Looked] = []
        fresh: dict[int, Path] = {}
        for begin in range(0, size, _CHUNK):
            end = min(begin + _CHUNK, size)
            path = self.folder / f"chunk-{begin}-{end}.npz"
            kept = _load(path, Looked._fields)
            parts.append(Looked(*kept) if kept is not None else self._seen(self.order[begin:end]))
            if kept is None and self._axes is None:
                fresh[begin // _CHUNK] = path
            elif kept is None:
                parts[-1] = self._reduced(parts[-1])
                _save(path, parts[-1]._asdict())
            if end > self._said:
                self._said = end
                self.say({"looked": end, "total": len(self.order)})
        if fresh:
            self._find_axes([parts[place] for place in fresh])
        for place, path in fresh.items():
            parts[place] = self._reduced(parts[place])
            if self._axes is not None:
                _save(path, parts[place]._asdict())
        return Looked(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def _seen(self, numbers: NDArray[np.int32]) -> Looked:
        files = [self.task.file_of(int(number)) for number in numbers]
        try:
            features, probabilities = self.eye.look(files)
            return Looked(np.ones(len(files), np.bool_), features, probabilities)
        except (UserError, OSError):  # one of them is broken
            seen = [self._seen_alone(file) for file in files]
        width = max(len(features) for features, _ in seen)
        read = np.array([len(features) > 0 for features, _ in seen], np.bool_)
        features = np.array([features if len(features) else np.zeros(width) for features, _ in seen], np.float32)
        return Looked(read, features, np.array([probabilities for _, probabilities in seen], np.float32))

    def _seen_alone(self, file: str) -> tuple[Float, Float]:
        """Look at one picture; give no features where it cannot be read."""
        try:
            features, probabilities = self.eye.look([file])
        except (UserError, OSError):
            return np.zeros(0, np.float32), np.zeros(len(self.eye.classes), np.float32)
        return features[0], probabilities[0]

    def _find_axes(self, parts: Sequence[Looked]) -> None:
        from sklearn.decomposition import PCA

        readable = [part.features[part.is_read] for part in parts if part.is_read.any()]
        if not readable:  # nor is there anything to keep: the next sample may say along which axes
            return
        features = np.concatenate(readable)
        pca = PCA(min(_NUMBERS, *features.shape), random_state=self.task.seed).fit(features)
        self._axes = (pca.mean_.astype(np.float32), pca.components_.astype(np.float32))
        _save(self.folder / "axes.npz", dict(zip(("mean", "components"), self._axes, strict=True)))

    def _reduced(self, part: Looked) -> Looked:
        """Return the same with few numbers for each picture: their places along the axes."""
        mean, components = self._axes or (np.zeros(0, np.float32), np.zeros((0, 0), np.float32))
        width = part.features.shape[1]  # 0 where none of them could be read
        features = part.features if width else np.zeros((len(part.is_read), len(mean)), np.float32)
        return part._replace(features=((features - mean) @ components.T).astype(np.float32))

    def write(self, found: Path, seen: Looked) -> None:
        """Group what was seen of a sample, and keep it in a folder that takes its name when it is whole."""
        for left, name in unfinished_in(found.parent):
            if name == found.name:  # of a process that was killed: the lock keeps all others away
                shutil.rmtree(left, ignore_errors=True)
        unfinished = unfinished_of(found)  # a folder, which no other may be renamed to: not :func:`replacing`
        unfinished.mkdir()
        clusters, distances = _clusters(seen.features[seen.is_read], self.task)
        np.save(unfinished / "indices.npy", self.order[: len(seen.is_read)][seen.is_read])
        np.save(unfinished / "clusters.npy", clusters)
        np.save(unfinished / "distances.npy", distances)
        np.save(unfinished / "probabilities.npy", seen.probabilities[seen.is_read])
        (unfinished / "classes.json").write_text(json.dumps(self.eye.classes), encoding="utf-8")
        unfinished.replace(found)


class _Pixels:
    """Features of a picture without a model: its pixels, at a few times a few."""

    classes: tuple[str, ...] = ()

    def look(self, files: Sequence[str]) -> tuple[Float, Float]:
        """Return the features, and no probability."""
        rows = [
            np.asarray(open_picture(file, at_most=2 * _SIDE).resize((_SIDE, _SIDE)), np.float32).reshape(-1)
            for file in files
        ]
        return np.stack(rows) / np.float32(255), np.zeros((len(files), 0), np.float32)


class _Model:
    """Features and probabilities of a trained model."""

    def __init__(self, ckpt_path: str) -> None:
        from layermatch.predictor import Predictor

        self._predictor = Predictor.load(ckpt_path)
        self.classes = tuple(self._predictor.class_names)

    def look(self, files: Sequence[str]) -> tuple[Float, Float]:
        """Return the features, each of length 1, and the probability of each class."""
        prediction = self._predictor(list(files))
        features = np.asarray(prediction.features, np.float32)
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        return features / np.maximum(lengths, 1e-12), np.asarray(prediction.probabilities, np.float32)


def _clusters(features: Float, task: Task) -> tuple[NDArray[np.int32], Float]:
    """Return the cluster of each picture, and its distance to the centre of that."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if not len(features):
        return np.zeros(0, np.int32), np.zeros(0, np.float32)
    number = min(task.clusters, len(np.unique(features, axis=0)))
    kind = KMeans if len(features) <= _MANY else MiniBatchKMeans
    means = kind(number, n_init=1, random_state=task.seed).fit(features)
    apart = features - means.cluster_centers_[means.labels_]
    return means.labels_.astype(np.int32), np.linalg.norm(apart, axis=1).astype(np.float32)


def _load(path: Path, names: Sequence[str]) -> tuple[NDArray[Any], ...] | None:
    """Return the arrays in a file; None if there is none that is whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    # The page comes first, and need not wait for the disk: what is not whole is found by its checksums, and made again.
    with replacing(path, sync=False) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _delete_old(cache: Path, *, but: Path) -> None:
    """Delete what was found for models and folders that nobody has asked for of late."""
    with suppress(OSError):
        folders = sorted((path for path in cache.iterdir() if path != but), key=lambda path: path.stat().st_mtime)
        for path in folders[: 1 - _KEPT]:
            if time.time() - path.stat().st_mtime > _RECENT:
                shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Start the work: standard input is JSON with the fields of a :class:`Task`."""
    with suppress(OSError, AttributeError):
        os.nice(10)  # the page comes first
    try:
        task = Task(**json.load(sys.stdin))
        examine(task, lambda said: print(json.dumps(said), flush=True))  # noqa: T201 -- the page reads it
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.status)
    except BrokenPipeError:  # the page is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
