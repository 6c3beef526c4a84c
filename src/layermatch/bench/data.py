"""Reading batches against copying their pixels, and starting a run against importing what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from layermatch.augment import StrongView, WeakView
from layermatch.bench.images import RandomImages
from layermatch.bench.report import Figure, Ratio, Section
from layermatch.bench.timing import alternate, timed
from layermatch.data import SemiSupervisedData
from layermatch.functional.streams import shuffled_positions
from layermatch.runs import layout
from layermatch.runs.reading import read_results

__all__ = ["STORAGES", "measure", "measure_reading", "measure_start"]

BATCH_SIZE, MU, SIZE = 64, 7, 96
CPU = torch.device("cpu")
#: Imports what a run must import before it can do anything, and says when that is done.
IMPORTS = "import time, torch, torchvision, lightning.pytorch, torchmetrics, hydra; print(time.time())"
#: Values of ``data.storage`` that are measured, of a data set that lies in a mapped file.
STORAGES = ("ram", "disk")


def measure(*, device: torch.device, quick: bool) -> Section:
    """Measure reading and start-up.

    Args:
        device: The device that a run is started on; reading is the host's work.
        quick: Whether to take fewer images and repeat less.
    """
    section = Section("data", {"B": BATCH_SIZE, "mu": MU, "size": f"{SIZE}x{SIZE}"})
    num_images, rounds = (1024, 5) if quick else (4096, 20)
    measure_reading(section, num_images=num_images, size=SIZE, batch_size=BATCH_SIZE, rounds=rounds)
    measure_start(section, device=device, rounds=1 if quick else 3)
    return section


def measure_reading(section: Section, *, num_images: int, size: int, batch_size: int, rounds: int) -> None:
    """Read raw batches of ``training_steps()`` from each of :data:`STORAGES`, and copy as many pixels.

    Args:
        section: The section that gets the figures.
        num_images: The number of images in the set.
        size: The side of an image.
        batch_size: The labelled images of a batch.
        rounds: The batches that are read from each.
    """
    with tempfile.TemporaryDirectory() as folder:
        variants = {"copying its pixels": timed(_copy(num_images, size, batch_size), CPU)}
        source = RandomImages(num_images, size=size, folder=Path(folder))
        for storage in STORAGES:
            data = SemiSupervisedData(
                source, weak=WeakView(), strong=StrongView(), num_labels=10, batch_size=batch_size, mu=MU,
                mean=(0.5,) * 3, std=(0.25,) * 3, seed=0, storage=storage,
            )  # fmt: skip
            data.setup()
            variants[f"reading a batch, storage={storage}"] = timed(_read_on(data), CPU)
        times = alternate(variants, rounds=rounds, warmups=2)
        del variants, data, source  # a mapped file cannot be removed everywhere
    floor, *others = (Figure.in_ms(name, times[name]) for name in times)
    section.figures += [floor, *others]
    ram, disk = others
    section.ratios.append(Ratio("batches/s of storage=ram against storage=disk", disk, ram))
    section.ratios += [Ratio(f"{figure.name} / copying its pixels", figure, floor) for figure in others]


def _read_on(data: SemiSupervisedData) -> Callable[[], object]:
    steps, number = data.training_steps(), count()
    return lambda: steps[next(number)]


def _copy(num_images: int, size: int, batch_size: int) -> Callable[[], object]:
    """Return the least that reading can be: the batch's images, picked out of one array in memory."""
    pixels = RandomImages(num_images, size=size).pixels
    index = shuffled_positions(seed=0, stream=0, start=0, count=batch_size * (1 + MU), size=num_images)
    return lambda: np.ascontiguousarray(pixels[index])


def measure_start(section: Section, *, device: torch.device, rounds: int) -> None:
    """Measure from the start of a process to its first optimizer step, on digits, and a run of that one step.

    Args:
        section: The section that gets the figures.
        device: The device that the run computes on.
        rounds: The number of processes that are started.
    """
    whole: list[float] = []
    variants = {
        "importing the libraries": _import_libraries,
        "first step": lambda: _first_step(device, whole),
    }
    times = alternate(variants, rounds=rounds)
    imports = Figure(
        "start of a process to the libraries' being imported", "s", tuple(times["importing the libraries"])
    )
    first = Figure("start of a run to its first step", "s", tuple(times["first step"]))
    section.figures += [imports, first, Figure("whole run of one step", "s", tuple(whole))]
    section.ratios.append(Ratio("start to first step / importing the libraries", first, imports))


def _first_step(device: torch.device, whole: list[float]) -> float:
    """Return the checkpoint of step 1 tells when that step was done; the run goes on to the test set and figures."""
    with tempfile.TemporaryDirectory() as folder:
        accelerator = "gpu" if device.type == "cuda" else "cpu"
        started = time.time()
        command = [
            sys.executable, "-m", "layermatch.run", "experiment=digits", "trainer.max_steps=1", f"run_dir={folder}/run",
            "checkpoint.every_n_steps=1", f"trainer.accelerator={accelerator}",
        ]  # fmt: skip
        _run(command)
        whole.append(time.time() - started)
        steps = read_results(Path(folder) / "run" / layout.RESULTS)["steps"]
        if steps != 1:
            raise RuntimeError(f"a run of one step made {steps}")
        written = [path.stat().st_mtime for path in layout.checkpoints_in(Path(folder) / "run")]
        return min(written) - started


def _import_libraries() -> float:
    started = time.time()
    return float(_run([sys.executable, "-c", IMPORTS])) - started


def _run(command: list[str]) -> str:
    """Return what a command writes to standard output."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    # Our own interpreter with our own arguments.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
