"""Small copies: whole, of the file as it is now, and no more of them than there is room for."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from layermatch.data.decoding import ImageFileError, open_picture
from layermatch.label.thumbnails import SIDES, Thumbnails


def write(path: Path, *, size: tuple[int, int], colour: tuple[int, int, int] = (200, 30, 30), turn: int = 1) -> str:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    Image.new("RGB", size, colour).save(path, exif=exif)
    return str(path)


def size_of(content: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(content)).size


@pytest.mark.parametrize(
    ("size", "turn", "expected"),
    [((30, 20), 1, (30, 20)), ((1000, 500), 1, (256, 128)), ((1000, 500), 6, (128, 256)), ((6000, 300), 1, (256, 13))],
)
def test_a_copy_is_whole_upright_and_never_larger(
    size: tuple[int, int], turn: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    thumbnails = Thumbnails(tmp_path / "cache", limit=10**6)
    assert size_of(thumbnails.get(write(tmp_path / "a.jpg", size=size, turn=turn), SIDES[0])) == expected


def test_a_reduced_jpeg_looks_like_the_picture(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rough = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    rough.save(tmp_path / "a.jpg", quality=95)
    got = np.asarray(open_picture(str(tmp_path / "a.jpg"), at_most=100), np.float32)
    expected = np.asarray(rough.resize((100, 75), Image.Resampling.BICUBIC), np.float32)
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 2


def test_a_changed_file_has_another_copy(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path / "cache", limit=10**6)
    file = write(tmp_path / "a.png", size=(30, 30))
    first = thumbnails.get(file, SIDES[0])
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in kept] == [first]
    kept[0].write_bytes(b"from the cache")
    assert thumbnails.get(file, SIDES[0]) == b"from the cache"
    write(tmp_path / "a.png", size=(40, 30))
    assert size_of(thumbnails.get(file, SIDES[0])) == (40, 30)


def test_the_oldest_copies_go_when_there_is_no_room(tmp_path: Path) -> None:
    import os

    thumbnails = Thumbnails(tmp_path / "cache", limit=8_000)
    for number in range(40):
        thumbnails.get(write(tmp_path / f"{number}.png", size=(30 + number, 30)), SIDES[0])
        for path in (tmp_path / "cache").rglob("*.jpg"):
            if path.stat().st_mtime > 10**6:
                os.utime(path, (number, number))
    sizes = {path.stat().st_mtime: path.stat().st_size for path in (tmp_path / "cache").rglob("*.jpg")}
    assert 4_000 < sum(sizes.values()) <= 8_000
    assert sorted(sizes) == [float(number) for number in range(40 - len(sizes), 40)]


def test_without_room_or_a_folder_there_are_still_copies(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    thumbnails = Thumbnails(tmp_path / "file" / "cache", limit=10**6)
    assert size_of(thumbnails.get(write(tmp_path / "a.png", size=(30, 30)), SIDES[0])) == (30, 30)
    with pytest.raises(ImageFileError):
        thumbnails.get(str(tmp_path / "no.png"), SIDES[0])
