"""What streaming from shards costs beside ``storage=disk``: images a second, memory, starting, and the order itself.

A second is one of a processor core that does nothing else. Files are in the cache of the system: no disk is measured.

    python benchmarks/stream.py SHARDS MANIFEST --json benchmarks/stream.json

``SHARDS`` is a folder that ``python -m layermatch.shard`` wrote, ``MANIFEST`` the table of the same images as files.
Both sources are read in turn in one process; memory is measured in a process for each. ``benchmarks/scale.py`` reads
the JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData
from layermatch.data.blocks import BlockOrder, Blocks
from layermatch.data.decoding import decode_bytes
from layermatch.data.shard_index import SUFFIX, ShardIndex, build_index
from layermatch.data.sources import Manifest, Shards

BATCH, MU = 64, 7


def data_of(kind: str, arguments: argparse.Namespace, *, cache: str) -> SemiSupervisedData:
    """Return the images of one kind, set up."""
    if kind == "disk":
        source = Manifest(manifest=arguments.manifest, image_size=arguments.size, channels=arguments.channels)
    else:
        root = arguments.many if kind == "many" else arguments.shards
        source = Shards(root=root, image_size=arguments.size, channels=arguments.channels, index_dir=cache)
    channels = arguments.channels
    data = SemiSupervisedData(
        source, weak=WeakView(), strong=StrongView(), batch_size=BATCH, mu=MU, num_workers=0, leaks="keep",
        storage="disk" if kind == "disk" else "auto", cache_dir=cache, mean=[0.5] * channels, std=[0.25] * channels,
    )  # fmt: skip
    data.setup()
    return data


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's time that some work takes: others on the same machine do not lengthen it."""
    started = time.process_time()
    work()
    return time.process_time() - started


def speeds(arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """Measure the images a second of the data path alone: reading, decoding and drawing; the two sources in turn."""
    steps = {kind: data_of(kind, arguments, cache=cache).training_steps() for kind in ("shards", "disk")}
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(arguments.rounds + 1):
        for kind, of_kind in steps.items():
            first = number * arguments.steps
            took = seconds(lambda of_kind=of_kind, first=first: [of_kind[first + k] for k in range(arguments.steps)])
            if number:  # the first round fills the system's cache
                found[kind].append(arguments.steps * BATCH * (1 + MU) / took)
    return {f"{kind}_images_per_s": round(median(each), 1) for kind, each in found.items()}


def memory(kind: str, arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """Measure the most memory beyond that of the imported libraries, in a process of its own."""
    command = [sys.executable, __file__, str(arguments.shards), str(arguments.manifest), "--memory", kind]
    command += ["--cache", cache]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("steps", "size", "channels", "many")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 -- ourselves
    return json.loads(done.stdout.splitlines()[-1])


def own_memory(kind: str, arguments: argparse.Namespace, cache: str) -> dict[str, float]:
    """Return the most memory of this process beyond what it has now, over setting up and some steps."""
    process = psutil.Process()
    np.load(io.BytesIO(_npy()))  # what the first use of a library takes belongs to none
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = process.memory_info().rss
    data = data_of(kind, arguments, cache=cache)
    steps = data.training_steps()
    for step in range(arguments.steps):
        steps[step * 97]  # all over the epochs
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"images": len(data.unlabelled), "peak_mib": round((int(peak.split()[1]) * 1024 - before) / 2**20, 1)}


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def parts(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure what starting and the order take, and what an image of other sizes takes to decode."""
    shards = sorted(arguments.shards.glob("train-*.tar"))
    indices = [path.with_name(path.name.removesuffix(".tar") + SUFFIX) for path in shards]
    built = [seconds(lambda path=path: build_index(path)) for path in shards[:8]]
    loaded = [seconds(lambda path=path: ShardIndex.load(path, names=False)) for path in indices]
    count = sum(len(ShardIndex.load(path, names=False)) for path in indices)
    blocks = Blocks(np.arange(1, 100_001) * 10_000, 8)
    order = BlockOrder(blocks, seed=0, stream=20)
    epoch = seconds(lambda: order.positions(start=0, count=448))
    window = seconds(lambda: order.positions(start=80_000 * 1000, count=448))
    batch = [seconds(lambda k=k: order.positions(start=80_000 * 1000 + 448 * k, count=448)) for k in range(1, 51)]
    found = {
        "index_build_images_per_s": round(len(build_index(shards[0])) / median(built), 0),
        "index_load_ms": round(1000 * median(loaded), 3),
        "index_bytes_per_image": round(sum(path.stat().st_size for path in indices) / count, 1),
        "shard_bytes_per_image": round(sum(path.stat().st_size for path in shards) / count, 1),
        "order_epoch_ms_100000_shards": round(1000 * epoch, 2),
        "order_window_ms_80000_images": round(1000 * window, 2),
        "order_batch_ms": round(1000 * median(batch), 3),
    }
    for stored, size in ((256, 96), (256, 224)):
        photo = Image.fromarray(load_sample_image("china.jpg")).resize((stored * 3 // 2, stored))
        file = io.BytesIO()
        photo.crop((0, 0, stored, stored)).save(file, "JPEG", quality=90)
        content = file.getvalue()
        took = [seconds(lambda c=content, s=size: decode_bytes(c, size=s, channels=3, name="")) for _ in range(60)]
        found[f"decode_jpeg_{stored}_to_{size}_images_per_s"] = round(1 / median(took), 1)
        found[f"jpeg_{stored}_bytes"] = len(content)
    return found


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", type=Path, help="folder of shards")
    parser.add_argument("manifest", type=Path, help="table of the same images as files")
    parser.add_argument("--many", type=Path, help="folder of more shards, for the memory that they take")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--without-memory", action="store_true")
    parser.add_argument("--memory", choices=("shards", "disk", "many"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help="folder of decoded files, to be used again; by default one for this time")
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or folder
        if arguments.memory:
            sys.stdout.write(json.dumps(own_memory(arguments.memory, arguments, cache)) + "\n")
            return
        figures: dict[str, Any] = speeds(arguments, cache) | parts(arguments)
        kinds = ("shards", "disk", *(["many"] if arguments.many else []))
        for kind in () if arguments.without_memory else kinds:
            figures[f"memory_{kind}"] = memory(kind, arguments, cache)
    written = {
        "measured_by": "python benchmarks/stream.py " + " ".join(sys.argv[1:]),
        "on": f"{platform.machine()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, one thread",
        "torch": torch.__version__,
        "figures": figures,
    }
    text = json.dumps(written, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
