"""Small data sets in the real file formats, for tests and for trying commands without a download.

The images are random, but each class has a pattern of its own, so that training on them can learn something.
From the command line: ``python tests/data/stand_ins.py stl10 DIR --num-unlabelled 1000``.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Part = tuple[Pixels, Labels]  # (N, C, H, W) and (N,), what a source should give back

STL10_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CHUNK = 1000  # images made at a time, so that 100,000 of them do not fill the memory


def class_images(rng: np.random.Generator, labels: Labels, size: int, channels: int = 3) -> Pixels:
    """Images ``(N, C, size, size)``: the class's 4x4 pattern of colours, shifted a little, under noise."""
    # The patterns depend on the class alone: training, test and unlabelled images share them.
    patterns = np.random.default_rng(0).integers(40, 216, (int(labels.max(initial=0)) + 1, channels, 4, 4))
    cells = np.arange(size) * 4 // size
    images = patterns[labels][:, :, cells[:, None], cells[None, :]]
    shifts = rng.integers(-size // 8, size // 8 + 1, (len(labels), 2))
    rolled = [np.roll(image, shift, (1, 2)) for image, shift in zip(images, shifts, strict=True)]
    noise = rng.integers(-40, 41, images.shape)
    return np.asarray(np.reshape(rolled, images.shape) + noise).clip(0, 255).astype(np.uint8)


def draw_labels(rng: np.random.Generator, count: int, num_classes: int) -> Labels:
    """``count`` labels in random order, as equal in number as possible."""
    return rng.permutation(np.arange(count) % num_classes).astype(np.int64)


def draw_part(rng: np.random.Generator, count: int, num_classes: int, size: int) -> Part:
    labels = draw_labels(rng, count, num_classes)
    return class_images(rng, labels, size), labels


def write_stl10(
    root: Path,
    *,
    num_labelled: int = 50,
    num_unlabelled: int = 100,
    num_test: int = 30,
    num_folds: int = 10,
    fold_size: int = 20,
    seed: int = 0,
) -> None:
    """``stl10_binary/``: column-major planes, labels from 1, a fold a line. Read with ``verify=False``."""
    rng = np.random.default_rng(seed)
    folder = root / "stl10_binary"
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", num_labelled), ("test", num_test), ("unlabeled", num_unlabelled)):
        labels = draw_labels(rng, count, 10)
        with (folder / f"{part}_X.bin").open("wb") as file:
            for start in range(0, count, CHUNK):
                images = class_images(rng, labels[start : start + CHUNK], 96)
                file.write(stl10_bytes(images))
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    (folder / "class_names.txt").write_text("\n".join(STL10_CLASSES) + "\n")
    folds = [rng.choice(num_labelled, min(fold_size, num_labelled), replace=False) for _ in range(num_folds)]
    lines = [" ".join(str(index) for index in fold) + " \n" for fold in folds]
    (folder / "fold_indices.txt").write_text("".join(lines))


def stl10_bytes(images: Pixels) -> bytes:
    """Each image plane by plane, each plane column by column."""
    return images.transpose(0, 1, 3, 2).tobytes()


def write_cifar10(root: Path, *, num_train: int = 50, num_test: int = 20, seed: int = 0) -> dict[str, Part]:
    """``cifar-10-batches-py/``: five training batches (``num_train`` in all), a test batch, names."""
    rng = np.random.default_rng(seed)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": draw_part(rng, num_train, 10, 32), "test": draw_part(rng, num_test, 10, 32)}
    for number, rows in enumerate(np.array_split(np.arange(num_train), 5), 1):
        images, labels = parts["train"]
        write_cifar_batch(folder / f"data_batch_{number}", images[rows], labels=labels[rows].tolist())
    write_cifar_batch(folder / "test_batch", parts["test"][0], labels=parts["test"][1].tolist())
    write_pickle(folder / "batches.meta", {"label_names": list(CIFAR10_CLASSES), "num_vis": 3072})
    return parts


def write_cifar100(root: Path, *, num_train: int = 200, num_test: int = 100, seed: int = 0) -> dict[str, Part]:
    """``cifar-100-python/``: ``train``, ``test`` and ``meta``, with fine and coarse labels."""
    rng = np.random.default_rng(seed)
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": draw_part(rng, num_train, 100, 32), "test": draw_part(rng, num_test, 100, 32)}
    for name, (images, labels) in parts.items():
        coarse = (labels // 5).tolist()
        write_cifar_batch(folder / name, images, fine_labels=labels.tolist(), coarse_labels=coarse)
    counts = {"fine": 100, "coarse": 20}
    names = {f"{kind}_label_names": [f"{kind}{k}" for k in range(n)] for kind, n in counts.items()}
    write_pickle(folder / "meta", names)
    return parts


def write_cifar_batch(path: Path, images: Pixels, **labels: list[int]) -> None:
    names = [f"image_{number:05}.png" for number in range(len(images))]
    content = {"batch_label": path.name, "data": images.reshape(len(images), -1), "filenames": names}
    write_pickle(path, content | labels)


def write_pickle(path: Path, content: dict[str, Any]) -> None:
    """Pickle as Python 2 and its numpy did: 8-bit strings, and ``numpy.core`` instead of ``numpy._core``."""
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", b"cnumpy.core."))


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as the 8-bit strings of Python 2."""

    dispatch: ClassVar[Any] = pickle._Pickler.dispatch.copy()

    # typeshed does not know the methods of this class, hence Any.
    def save_string(self: Any, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        head = b"U" + struct.pack("<B", len(raw)) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
        self.write(head + raw)
        self.memoize(text)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def write_svhn(
    root: Path, *, num_train: int = 40, num_extra: int = 60, num_test: int = 20, seed: int = 0
) -> dict[str, Part]:
    """``train_32x32.mat``, ``extra_32x32.mat`` and ``test_32x32.mat``: ``(32, 32, 3, N)``, 10 for digit 0."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    counts = {"train": num_train, "extra": num_extra, "test": num_test}
    parts = {name: draw_part(rng, count, 10, 32) for name, count in counts.items()}
    for name, (images, labels) in parts.items():
        write_mat(root / f"{name}_32x32.mat", images.transpose(2, 3, 1, 0), np.where(labels == 0, 10, labels))
    return parts


def write_mat(path: Path, images: Pixels, labels: NDArray[Any]) -> None:
    from scipy.io import savemat

    savemat(path, {"X": images, "y": labels.astype(np.uint8)[:, None]}, do_compression=True)


def write_mnist(
    root: Path, *, name: str = "MNIST", suffix: str = "", num_train: int = 60, num_test: int = 20, seed: int = 0
) -> dict[str, Part]:
    """``NAME/raw/``, or ``root`` itself where there is no name: four IDX files, gzipped where the suffix is ``.gz``."""
    rng = np.random.default_rng(seed)
    folder = root / name / "raw" if name else root
    folder.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, count in (("train", num_train), ("t10k", num_test)):
        labels = draw_labels(rng, count, 10)
        parts[part] = class_images(rng, labels, 28, channels=1), labels
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", parts[part][0][:, 0])
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels.astype(np.uint8))
    return parts


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """Unsigned bytes after a head of the number of axes and their sizes, the highest byte first."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_folder(
    root: Path,
    *,
    layout: str = "train",
    classes: Sequence[str] = ("cat", "dog", "fox"),
    per_class: int = 6,
    num_unlabelled: int = 12,
    test_per_class: int = 2,
    size: int = 40,
    seed: int = 0,
) -> None:
    """PNG files in ``train/<class>/``, or ``labeled/<class>/`` and ``unlabeled/``; and ``test/<class>/``."""
    rng = np.random.default_rng(seed)
    write_class_folders(rng, root / layout, classes, per_class, size)
    if layout == "labeled":
        write_pngs(root / "unlabeled", class_images(rng, draw_labels(rng, num_unlabelled, len(classes)), size))
    if test_per_class:
        write_class_folders(rng, root / "test", classes, test_per_class, size)


def write_imagenet100(root: Path, *, per_class: int = 2, val_per_class: int = 1, size: int = 40, seed: int = 0) -> None:
    """``train/<WordNet id>/`` and ``val/...`` of 101 classes, and ``classes.txt`` with 100 of them."""
    rng = np.random.default_rng(seed)
    classes = [f"n{1440764 + 7 * number:08}" for number in range(101)]
    write_class_folders(rng, root / "train", classes, per_class, size, suffix=".JPEG")
    write_class_folders(rng, root / "val", classes, val_per_class, size, suffix=".JPEG")
    (root / "classes.txt").write_text("\n".join(reversed(classes[:100])) + "\n")


def write_class_folders(
    rng: np.random.Generator,
    root: Path,
    classes: Sequence[str],
    per_class: int,
    size: int,
    *,
    suffix: str = ".png",
) -> None:
    for label, name in enumerate(classes):
        write_pngs(root / name, class_images(rng, np.full(per_class, label), size), suffix=suffix)


def write_pngs(folder: Path, images: Pixels, *, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:05}{suffix}")


WRITERS: dict[str, Callable[..., Any]] = {
    "stl10": write_stl10,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "mnist": write_mnist,
    "folder": write_folder,
    "imagenet100": write_imagenet100,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, writer in WRITERS.items():
        options = kinds.add_parser(kind, description=writer.__doc__)
        options.add_argument("root", type=Path, metavar="DIR")
        for name, parameter in inspect.signature(writer).parameters.items():
            default = parameter.default
            if isinstance(default, int | str):
                flag = "--" + name.replace("_", "-")
                options.add_argument(flag, type=type(default), default=default, help="%(default)s")
    settings = vars(parser.parse_args(arguments))
    WRITERS[settings.pop("kind")](settings.pop("root"), **settings)


if __name__ == "__main__":
    main()
