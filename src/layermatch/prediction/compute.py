"""What the network says of the files of a job, a chunk at a time, on one device or several."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from layermatch.data.file_images import FileImages
from layermatch.data.loader import BatchLoader, loader_errors
from layermatch.data.passes import progress
from layermatch.errors import RunError, UserError
from layermatch.prediction.job import GO_ON, FileList, Job, told_of_disk
from layermatch.predictor import Prediction, Predictor

__all__ = ["Computation", "compute"]

#: Fewer images than this are decoded in this process: it takes less time than to start others.
_FEW_FILES = 500
_MAX_WORKERS = 8
#: Bytes of pixels that a reading process hands over at a time: by shared memory, of which a container may have 64 MB.
_PART_BYTES = 2**22
#: Seconds between two looks at how far other processes are.
_LOOK_EVERY = 1.0


@dataclass(frozen=True)
class Computation:
    """What every process of a job is told.

    Args:
        ckpt_path: The checkpoint.
        options: Further arguments of :meth:`~layermatch.predictor.Predictor.load`.
        top_k: The most probable classes that are kept of each image.
        probabilities: Whether the probabilities of all classes are kept.
        features: Whether the features are kept.
        num_workers: The number of reading processes of each device; None is one for each processor, up to 8, and none
            for few images.
    """

    ckpt_path: Path
    options: dict[str, Any]
    top_k: int
    probabilities: bool
    features: bool
    num_workers: int | None

    def load(self, device: str) -> Predictor:
        """Return the predictor on a device."""
        return Predictor.load(self.ckpt_path, device=device, **self.options)


def compute(job: Job, computation: Computation, predictor: Predictor, *, devices: int) -> None:
    """Do all chunks of a job that are left.

    Args:
        job: The job, whose files are listed.
        computation: What is computed.
        predictor: The predictor on the first device.
        devices: The number of devices, each with a process of its own where there are several.

    Raises:
        RunError: The disk is full, or a process ended. What is done is kept.
    """
    left = job.left()
    total = min(len(left) * job.chunk_size, job.files.count)
    with loader_errors(), progress("predicting", total) as advance:
        if devices == 1 or len(left) < devices:
            _work(job, computation, predictor, left, advance)
        else:
            _work_on_several(job, computation, left, devices=devices, kind=predictor.device.type, advance=advance)


def _work_on_several(
    job: Job, computation: Computation, left: Sequence[int], *, devices: int, kind: str, advance: Callable[[int], None]
) -> None:
    names = [f"{kind}:{rank}" if kind == "cuda" else kind for rank in range(devices)]
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"devices={devices}, but this machine has {torch.cuda.device_count()} GPUs")
    if computation.num_workers is None:
        computation = replace(computation, num_workers=max(1, _num_processors() // devices))
    done = job.num_done()
    with ProcessPoolExecutor(devices, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_work_of_rank, job, computation, name, list(left[rank::devices]))
            for rank, name in enumerate(names)
        ]
        try:
            _wait(futures, job, done, advance)
        except BrokenProcessPool as error:
            raise RunError(f"a process that predicts ended, as happens when memory is full: {GO_ON}") from error


def _wait(futures: list[Future[str]], job: Job, done: int, advance: Callable[[int], None]) -> None:
    running = set(futures)
    while running:
        finished, running = wait(running, timeout=_LOOK_EVERY)
        for future in finished:
            if message := future.result():
                raise RunError(message)
        now = job.num_done()
        advance((now - done) * job.chunk_size)
        done = now


def _work_of_rank(job: Job, computation: Computation, device: str, chunks: list[int]) -> str:
    """Return the work of a process of its own; what is wrong, on one line, as exceptions do not all travel."""
    try:
        with loader_errors():
            _work(job, computation, computation.load(device), chunks, _tell_nobody)
    except (RunError, UserError) as error:
        return str(error)
    return ""


def _tell_nobody(count: int) -> None:
    """Do nothing: the first process looks itself how far the others are."""


def _work(
    job: Job, computation: Computation, predictor: Predictor, chunks: Sequence[int], advance: Callable[[int], None]
) -> None:
    predictor.batch_size = job.chunk_size
    reading = _Reading(job.files, job.root, predictor, chunks, chunk_size=job.chunk_size)
    num_workers = computation.num_workers
    if num_workers is None:
        num_workers = min(_num_processors(), _MAX_WORKERS) if len(chunks) * job.chunk_size >= _FEW_FILES else 0
    # Its own generator: else the loader would draw from torch's.
    loader = BatchLoader(reading, batch_size=None, num_workers=num_workers, generator=torch.Generator())
    pixels: list[torch.Tensor] = []
    bad: list[tuple[int, str]] = []
    for (chunk, first, is_last), (part, unread) in zip(reading.parts, loader, strict=True):
        pixels.append(part)
        bad += [(first + row, reason) for row, reason in unread]
        if is_last:
            arrays = _arrays(predictor(torch.cat(pixels)), bad, computation)
            with told_of_disk(job.folder):
                job.write_chunk(chunk, arrays)
            advance(sum(map(len, pixels)))
            pixels, bad = [], []


def _arrays(prediction: Prediction, bad: list[tuple[int, str]], computation: Computation) -> dict[str, NDArray[Any]]:
    # Stable, so that the first is what an evaluation says: among equal ones the lowest class.
    ordered, classes = prediction.probabilities.sort(dim=1, descending=True, stable=True)
    top = min(computation.top_k, ordered.shape[1])
    arrays: dict[str, NDArray[Any]] = {
        "classes": classes[:, :top].to(torch.int32).numpy(),
        "confidences": ordered[:, :top].numpy(),
        "unread": np.frombuffer(json.dumps(bad).encode("ascii"), np.uint8),
    }
    if computation.probabilities:
        arrays["probabilities"] = prediction.probabilities.numpy()
    if computation.features:
        arrays["features"] = prediction.features.numpy()
    return arrays


class _Reading(Dataset[Any]):
    """The pixels of chunks, some at a time, with the files among them that cannot be read."""

    def __init__(
        self, files: FileList, root: Path, predictor: Predictor, chunks: Sequence[int], *, chunk_size: int
    ) -> None:
        self._files = files
        self._root = root
        self._size, self._channels = predictor.image_size, predictor.channels
        self._rows = max(1, _PART_BYTES // (self._channels * self._size**2))
        #: The chunk of each part, its first row there, and whether it is the last one.
        self.parts: list[tuple[int, int, bool]] = []
        for chunk in chunks:
            length = min(chunk_size, files.count - chunk * chunk_size)
            firsts = range(0, length, self._rows)
            self.parts += [(chunk, first, first + self._rows >= length) for first in firsts]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, part: int) -> tuple[NDArray[np.uint8], list[tuple[int, str]]]:
        chunk, first, _ = self.parts[part]
        records = self._files.chunk(chunk)[first : first + self._rows]
        paths = [os.path.join(self._root, record.path) for record in records]  # noqa: PTH118 -- one for each image
        images = FileImages(paths, size=self._size, channels=self._channels)
        pixels, errors = images.read_or_explain(np.arange(len(paths)))
        # As values: an exception would come out of a worker with its traceback in the message.
        reasons = {error.path: error.reason for error in errors}
        return pixels, [(row, reasons[path]) for row, path in enumerate(paths) if path in reasons]


def _num_processors() -> int:
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    return int(count or 1)
