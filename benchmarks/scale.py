"""What training on up to 10^9 images needs: which resource is used up first, at 1 to 1,024 GPUs.

    python benchmarks/scale.py                       # the tables of docs/scale.md
    python benchmarks/scale.py --images 1e8 --classes 100 --gpu-images-per-s 900 --cores-per-gpu 12

It is arithmetic, and gives the same every time. What was measured is read from ``benchmarks/stream.json``, which says
by which command and on which machine. **No figure of a GPU or of a network was measured**: those are arguments, whose
defaults are round numbers of no machine in particular. Give your own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("stream.json")

#: Bytes that each image of the pool takes on every GPU, by what is chosen: (fixed, for each class). The tests compare
#: them with what the methods really keep.
STATE: dict[str, tuple[int, int]] = {
    "fixed, soft, freematch, softmatch, ...": (0, 0),
    "flexmatch, sequencematch, jepamatch": (8, 0),
    "algorithm=finessl": (8, 0),
    "algorithm=dho": (0, 4),
    "algorithm=vpet": (0, 4),
    "algorithm=r2d2": (1, 4),
    "ema_outputs": (8, 4),
}

GPUS = (1, 8, 64, 256, 1024)


@dataclass(frozen=True)
class Setting:
    """What is not measured here.

    Attributes:
        images: Images of the unlabelled pool.
        classes: Classes.
        images_per_shard: Images of a shard.
        window: Shards that are mixed.
        batch: Images of a step on each GPU, labelled and unlabelled.
        gpu_images_per_s: Images that a GPU trains on in a second, when nothing else is waited for.
        gpu_gb: Memory of a GPU that tables may take, in GB.
        gpus_per_node: GPUs of a machine.
        cores_per_gpu: Processor cores of a machine for each GPU, all of them decoding.
        parameters: Weights of the network, whose gradients are exchanged in 32 bits.
        exchange_gb_per_s: Bytes that a GPU exchanges with others in a second, in GB; not overlapped with computing.
        node_gb_per_s: Bytes that a machine reads from the storage in a second, in GB.
        storage_gb_per_s: Bytes that the storage gives to all machines in a second, in GB.
        storage_requests_per_s: Single reads that the storage answers in a second.
    """

    images: float = 1e9
    classes: int = 1000
    images_per_shard: int = 10_000
    window: int = 8
    batch: int = 512
    gpu_images_per_s: float = 1500.0
    gpu_gb: float = 40.0
    gpus_per_node: int = 8
    cores_per_gpu: int = 16
    parameters: float = 25.6e6
    exchange_gb_per_s: float = 20.0
    node_gb_per_s: float = 10.0
    storage_gb_per_s: float = 40.0
    storage_requests_per_s: float = 500_000.0


@dataclass(frozen=True)
class Measured:
    """What was measured, see :data:`MEASURED`.

    Attributes:
        decode_per_s: Images that a core reads from a shard's content to 224x224 in a second.
        image_bytes: Bytes of such an image, a JPEG file of 256x256.
        index_bytes: Bytes of the index for each image.
        index_load_ms: Milliseconds to read the index of a shard of 2,500 images at the start.
        index_build_per_s: Images for which a core makes the index of another program's shards in a second.
        order_epoch_ms: Milliseconds to shuffle 100,000 shards, once an epoch.
        order_window_ms: Milliseconds to shuffle the 80,000 images of a window.
    """

    decode_per_s: float
    image_bytes: float
    index_bytes: float
    index_load_ms: float
    index_build_per_s: float
    order_epoch_ms: float
    order_window_ms: float

    @staticmethod
    def of(path: Path) -> Measured:
        """Read what ``benchmarks/stream.py`` wrote."""
        figures = json.loads(path.read_text())["figures"]
        return Measured(
            figures["decode_jpeg_256_to_224_images_per_s"], figures["jpeg_256_bytes"], figures["index_bytes_per_image"],
            figures["index_load_ms"], figures["index_build_images_per_s"], figures["order_epoch_ms_100000_shards"],
            figures["order_window_ms_80000_images"],
        )  # fmt: skip


def rates(setting: Setting, measured: Measured, gpus: int) -> dict[str, float]:
    """Return the images a second that each resource allows all GPUs together."""
    nodes = -(-gpus // setting.gpus_per_node)
    gradients = 4 * setting.parameters
    # A ring sends each GPU's gradients twice, but for its own share.
    exchange_s = 2 * gradients * (gpus - 1) / gpus / (setting.exchange_gb_per_s * 1e9)
    step_s = setting.batch / setting.gpu_images_per_s + exchange_s
    return {
        "GPUs": gpus * setting.batch / step_s,
        "decoding": gpus * setting.cores_per_gpu * measured.decode_per_s,
        "network of a machine": nodes * setting.node_gb_per_s * 1e9 / measured.image_bytes,
        "storage, bytes": setting.storage_gb_per_s * 1e9 / measured.image_bytes,
        "storage, requests": setting.storage_requests_per_s,
    }


def first_bottleneck(setting: Setting, measured: Measured, gpus: int) -> tuple[str, float]:
    """Return the resource that allows the fewest images a second, and how many."""
    found = rates(setting, measured, gpus)
    name = min(found, key=lambda each: found[each])
    return name, found[name]


def state_bytes(setting: Setting, name: str) -> float:
    """Return the bytes of a table on every GPU, and in every checkpoint."""
    fixed, of_class = STATE[name]
    return setting.images * (fixed + of_class * setting.classes)


def most_images(setting: Setting, name: str) -> float:
    """Return the largest pool whose table fits on a GPU; infinity where there is no table."""
    fixed, of_class = STATE[name]
    of_image = fixed + of_class * setting.classes
    return setting.gpu_gb * 1e9 / of_image if of_image else float("inf")


def speed_table(setting: Setting, measured: Measured) -> list[str]:
    """Return what each resource allows at each number of GPUs, as Markdown."""
    lines = ["| GPUs | " + " | ".join(rates(setting, measured, 1)) + " | first bottleneck | an epoch takes |"]
    lines.append("| ---: |" + " ---: |" * len(rates(setting, measured, 1)) + " --- | ---: |")
    for gpus in GPUS:
        found = rates(setting, measured, gpus)
        name, rate = first_bottleneck(setting, measured, gpus)
        shown = " | ".join(_count(each) for each in found.values())
        lines.append(f"| {gpus:,} | {shown} | {name} | {_time(setting.images / rate)} |")
    return lines


def state_table(setting: Setting) -> list[str]:
    """Return the sizes of tables that grow with the pool, as Markdown."""
    sizes = (1e6, 1e7, 1e8, 1e9)
    lines = ["| | bytes of an image | " + " | ".join(f"{_count(size)} images" for size in sizes) + " | most images |"]
    lines.append("| --- |" + " ---: |" * (len(sizes) + 2))
    for name, (fixed, of_class) in STATE.items():
        of_image = fixed + of_class * setting.classes
        shown = " | ".join(_size(size * of_image) for size in sizes)
        most = most_images(setting, name)
        lines.append(f"| {name} | {of_image:,} | {shown} | {'any' if most == float('inf') else _count(most)} |")
    return lines


def host_table(setting: Setting, measured: Measured) -> list[str]:
    """Return what is needed beside the GPUs, as Markdown."""
    shards, mixed = setting.images / setting.images_per_shard, setting.window * setting.images_per_shard
    # An order and its ends, and the ends and places of the shards: four numbers; two paths of about 100 bytes each.
    order = shards * (4 * 8 + 200) + mixed * 8
    kept = 2 * mixed * (8 + 4 + 4)
    load_s = shards * measured.index_load_ms / 1000 * setting.images_per_shard / 2500
    rows = [
        ("images in shards", _size(setting.images * measured.image_bytes), "storage, once"),
        ("indices", _size(setting.images * measured.index_bytes), "storage, once"),
        ("the order and the list of shards", _size(order), "memory of each reading process"),
        ("places of the images of shards that are open", _size(kept), "memory of each reading process"),
        ("labels of unlabelled images", _size(8), "one number for all; 8 bytes an image with other sources"),
        ("a shuffle of the shards", f"{measured.order_epoch_ms * shards / 1e5:.0f} ms", "each epoch"),
        ("a shuffle of a window", f"{measured.order_window_ms * mixed / 8e4:.1f} ms",
         f"every {_count(mixed)} images"),
        ("reading the indices at the start", _time(load_s), "each process, at most: in proportion to images"),
        ("indices of another program's shards", _time(setting.images / measured.index_build_per_s / 8),
         "once, eight processes"),
    ]  # fmt: skip
    return ["| what | how much | where, when |", "| --- | ---: | --- |", *(f"| {' | '.join(row)} |" for row in rows)]


def report(setting: Setting, measured: Measured) -> str:
    """Return all tables, as Markdown."""
    given = ", ".join(f"{field.name}={_count(getattr(setting, field.name))}" for field in fields(setting))
    found = ", ".join(f"{field.name}={_count(getattr(measured, field.name))}" for field in fields(measured))
    lines = [f"Assumed: {given}.", "", f"Measured: {found}.", "", "Images a second that each resource allows:", ""]
    lines += [*speed_table(setting, measured), "", "Tables on every GPU, and in every checkpoint:", ""]
    lines += [*state_table(setting), "", "Beside the GPUs:", "", *host_table(setting, measured)]
    return "\n".join(lines) + "\n"


def _count(number: float) -> str:
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"


def _size(number: float) -> str:
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} B"


def _time(seconds: float) -> str:
    for unit, factor in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--measured", type=Path, default=MEASURED, help="figures of benchmarks/stream.py")
    for field in fields(Setting):
        default: Any = field.default
        kind = (lambda text: int(float(text))) if isinstance(default, int) else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=default, help=f"{default:,}")
    given = vars(parser.parse_args(arguments))
    measured = Measured.of(given.pop("measured"))
    if any(value <= 0 for value in given.values()):
        parser.error("give numbers above 0")
    sys.stdout.write(report(Setting(**given), measured))


if __name__ == "__main__":
    main()
