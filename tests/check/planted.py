"""A folder of pictures with a fault of each kind planted in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def picture(seed: int, *, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Large patches of colour, another picture for each seed."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def write_sound(root: Path, *, per_class: int = 6) -> None:
    """Pictures of three classes, each another one."""
    for part, count, first in (("train", per_class, 0), ("val", 2, 1000), ("test", 3, 2000)):
        for number, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                picture(first + 100 * number + k).save(folder / f"{k}.png")


def plant(root: Path) -> None:
    """Faults among the pictures of :func:`write_sound`."""
    picture(0).save(root / "test" / "ant" / "same pixels.bmp")
    picture(1).save(root / "test" / "ant" / "same picture.jpg", quality=40)
    picture(101).save(root / "train" / "ant" / "a bee.png")
    picture(203).save(root / "train" / "cow" / "again.png", compress_level=1)
    (root / "train" / "ant" / "cut off.png").write_bytes((root / "train" / "ant" / "2.png").read_bytes()[:200])
    (root / "train" / "bee" / "empty.jpg").write_bytes(b"")
    (root / "train" / "bee" / "film.mp4").write_bytes(bytes(100))
    picture(5000, size=(300, 80)).save(root / "train" / "cow" / "long.png")
    picture(5001).save(root / "train" / "cow" / "<b>&odd.png")
    for k in range(20):
        picture(6000 + k).save(root / "train" / "bee" / f"more {k}.png")
