"""STL-10 of full size: resident memory and speed of the data path in each storage, and how long a run takes to start.

    python benchmarks/storage_memory.py DIR                      # writes a stand-in of 105,000 + 8,000 images (3.1 GB)
    python benchmarks/storage_memory.py DIR --storages ram disk --steps 40 --rounds 2
    python benchmarks/storage_memory.py DIR --start              # the time to a run's first step instead

Each measurement is a process of its own: it sets the data module up and reads batches of B = 64 labelled and mu B = 448
unlabelled images with their views, without a network. ``read`` leaves out the views too, so that it shows the storage
alone. An ``empty`` run does the same on a data set of a hundred images; what the others need above it is due to their
images. Memory is what Linux says in ``/proc/self/status``: ``VmHWM`` is the largest resident set so far, ``RssAnon`` is
the process's own, ``RssFile`` pages of files that are mapped. Rounds are interleaved, as machines drift; the median is
shown.

``--start`` starts ``python -m layermatch.run experiment=stl10`` and waits for the checkpoint of its first step, with
the published batch and with two labelled images, whose step takes next to no time: what remains is starting up. As a
stand-in has not the published checksums, the runs do without them (``data.verify=false``), and reading every file for
its checksum is timed by itself.

The stand-in is random bytes in STL-10's binary layout, in ``DIR/stl10_binary``; files of full size that are there are
used as they are, so the real data set can be given too. Delete it by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torchvision.datasets.utils import check_integrity

from layermatch.augment import StrongView, WeakView
from layermatch.bench.timing import alternate
from layermatch.console import Reporter, table
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import STL10

__all__ = ["main", "measure", "write_stand_in"]

FULL = {"train": 5_000, "unlabeled": 100_000, "test": 8_000}
EMPTY = {"train": 100, "unlabeled": 100, "test": 100}
IMAGE_BYTES = 3 * 96 * 96
CHUNK = 1_000
MIB = 2**20


def write_stand_in(root: Path, counts: dict[str, int]) -> None:
    """Write ``stl10_binary/``; files that have the right size already are left alone.

    Args:
        root: The folder to write into.
        counts: Images of ``train``, ``unlabeled`` and ``test``.
    """
    rng = np.random.default_rng(0)
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        path = folder / f"{part}_X.bin"
        if not path.exists() or path.stat().st_size != count * IMAGE_BYTES:
            with path.open("wb") as file:
                for start in range(0, count, CHUNK):
                    file.write(rng.bytes(min(CHUNK, count - start) * IMAGE_BYTES))
        labels = folder / f"{part}_y.bin"
        if part != "unlabeled" and (not labels.exists() or labels.stat().st_size != count):
            labels.write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
    for name, text in (
        ("class_names.txt", "\n".join(f"class{k}" for k in range(10)) + "\n"),
        ("fold_indices.txt", " ".join(map(str, range(min(1000, counts["train"])))) + "\n"),
    ):
        if not (folder / name).exists():
            (folder / name).write_text(text)


def measure(root: Path, *, storage: str, steps: int, batch_size: int, mu: int) -> dict[str, float]:
    """Set up and read, in this process.

    Args:
        root: The folder that holds ``stl10_binary/``.
        storage: The place of the images; see :class:`~layermatch.data.storage.Storage`.
        steps: The steps with views, after one that is not timed; a hundred times as many are read without views.
        batch_size: Labelled images.
        mu: Unlabelled images per labelled one.

    Returns:
        Seconds until the first batch, steps per second with and without views, and memory in bytes.
    """
    started = time.perf_counter()
    data = SemiSupervisedData(
        STL10(root=root, verify=False),
        weak=WeakView(),
        strong=StrongView(),
        num_labels=40,
        batch_size=batch_size,
        mu=mu,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        seed=0,
        storage=storage,
    )
    data.setup()
    loader = iter(data.train_dataloader())

    def step() -> None:
        data.on_after_batch_transfer(next(loader), 0)

    step()
    to_first = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(steps):
        step()
    with_views = steps / (time.perf_counter() - started)
    # Enough to have read most images once: pages that are mapped add up over an epoch.
    reads = 100 * steps
    started = time.perf_counter()
    for _ in range(reads):
        next(loader)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = {name: int(status[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS", "RssAnon", "RssFile")}
    speed = {"views": with_views, "read": reads / (time.perf_counter() - started)}
    return {"first": to_first, "images": (steps + 1 + reads) * batch_size * (mu + 1), **speed, **memory}


def _measure_in_own_process(root: Path, storage: str, options: argparse.Namespace) -> dict[str, float]:
    numbers = {"--steps": options.steps, "--batch-size": options.batch_size, "--mu": options.mu}
    command = [sys.executable, __file__, str(root), "--child", storage]
    command += [text for name, value in numbers.items() for text in (name, str(value))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 -- this very file
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def measure_first_step(root: Path, overrides: Sequence[str]) -> float:
    """Measure the seconds from the start of a run's process to the end of its first step; the run is then stopped.

    Args:
        root: The folder that holds ``stl10_binary/``.
        overrides: The settings of the run, as on the command line.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "layermatch.run", "experiment=stl10", f"data.root={root}", "data.verify=false",
            "trainer.max_steps=2", "checkpoint.every_n_steps=1", f"run_dir={folder}/run", *overrides,
        ]  # fmt: skip
        started = time.time()
        nowhere = subprocess.DEVNULL
        run = subprocess.Popen(command, stdout=nowhere, stderr=subprocess.PIPE, text=True)  # noqa: S603 -- our own module
        try:
            while True:
                written = list(Path(folder, "run", "checkpoints").glob("*.ckpt"))
                if written:
                    return min(path.stat().st_mtime for path in written) - started
                if run.poll() is not None:
                    raise RuntimeError(f"the run ended before its first step: {run.communicate()[1][-500:]}")
                time.sleep(0.05)
        finally:
            run.kill()
            run.communicate()


def measure_checksums(root: Path) -> float:
    """Measure the seconds to read every file of the data set for its checksum, as ``data.verify=true`` does.

    Args:
        root: The folder that holds ``stl10_binary/``.
    """
    started = time.perf_counter()
    for path in sorted((root / "stl10_binary").glob("*.bin")):
        check_integrity(path, "0" * 32)
    return time.perf_counter() - started


def _show_start(root: Path, *, rounds: int) -> None:
    variants = {
        "first step done, B = 64, mu = 7": lambda: measure_first_step(root, ()),
        "first step done, B = 2, mu = 2": lambda: measure_first_step(root, ("data.batch_size=2", "data.mu=2")),
        "checksums of all files": lambda: measure_checksums(root),
    }
    times = alternate(variants, rounds=rounds)
    rows = [(name, f"{median(each):.1f}", f"{min(each):.1f}", f"{max(each):.1f}") for name, each in times.items()]
    header = ("seconds", "median", "lowest", "highest")
    Reporter().show(table("experiment=stl10, full size: start", rows, header=header))


def _rows(measured: dict[str, list[dict[str, float]]]) -> list[tuple[str, ...]]:
    rows = []
    empty = measured["empty"]
    for name, rounds in measured.items():
        values = {key: median(each[key] for each in rounds) for key in rounds[0]}
        above = values["VmHWM"] - median(each["VmHWM"] for each in empty)
        memory = [f"{values[key] / MIB:,.0f}" for key in ("VmHWM", "RssAnon", "RssFile")]
        speed = [f"{values['views']:.3f}", f"{values['read']:.1f}"]
        rows.append((name, *memory, f"{above / MIB:+,.0f}", f"{values['first']:.1f}", *speed))
    return rows


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR")
    parser.add_argument("--storages", nargs="+", default=["ram", "disk"], help="%(default)s")
    parser.add_argument("--steps", type=int, default=10, help="%(default)s, with views")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="%(default)s")
    parser.add_argument("--mu", type=int, default=7, help="%(default)s")
    parser.add_argument("--start", action="store_true", help="time the start of a run instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each storage in processes of their own, or (``--child``) one storage in this one."""
    options = _parse(arguments)
    if options.child:
        numbers = {"steps": options.steps, "batch_size": options.batch_size, "mu": options.mu}
        sys.stdout.write(json.dumps(measure(options.root, storage=options.child, **numbers)) + "\n")
        return
    write_stand_in(options.root, FULL)
    if options.start:
        _show_start(options.root, rounds=options.rounds)
        return
    measured: dict[str, list[Any]] = {name: [] for name in ("empty", *options.storages)}
    with tempfile.TemporaryDirectory() as small:
        write_stand_in(Path(small), EMPTY)
        for _ in range(options.rounds):
            measured["empty"].append(_measure_in_own_process(Path(small), "disk", options))
            for storage in options.storages:
                measured[storage].append(_measure_in_own_process(options.root, storage, options))
    header = ("storage", "VmHWM", "RssAnon", "RssFile", "above empty", "first batch, s", "steps/s", "reads/s")
    threads = f"{torch.get_num_threads()} threads, B={options.batch_size}, mu={options.mu}, memory in MiB"
    Reporter().show(table(f"STL-10 of full size: {threads}", _rows(measured), header=header))


if __name__ == "__main__":
    main()
