"""Formats beside JPEG and PNG, in this process and in those that read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from tests.data.odd_images import PICTURE, SIDE, picture

from layermatch.data.decoding import ImageFileError, decode_image, is_image, open_picture, size_of_picture
from layermatch.data.file_images import FileImages
from layermatch.data.passes import BadFiles, read_all

#: How each format is written so that few colours change.
OPTIONS = {".avif": {"quality": 100, "subsampling": "4:4:4"}, ".webp": {"lossless": True}, ".tiff": {}, ".heic": {}}


def write_heic(path: Path) -> None:
    pillow_heif.from_pillow(picture()).save(path, quality=-1)


def close_to_picture(pixels: NDArray[np.uint8]) -> bool:
    return bool(np.abs(pixels.transpose(1, 2, 0).astype(int) - PICTURE).max() < 12)


@pytest.mark.parametrize("ending", OPTIONS)
def test_a_format_shows_the_picture(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".heic":
        write_heic(path)
    else:
        picture().save(path, **OPTIONS[ending])
    assert is_image(str(path))
    assert size_of_picture(str(path)) == (SIDE, SIDE)
    assert close_to_picture(decode_image(str(path), size=SIDE, channels=3))
    assert open_picture(str(path)).size == (SIDE, SIDE)


def test_heic_is_read_by_other_processes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.heic" for number in range(3)]
    for path in paths:
        write_heic(path)
    images = FileImages([paths[number % 3] for number in range(500)], size=SIDE)
    bad = BadFiles()
    pixels = np.concatenate(list(read_all(images, what="reading", num_workers=2, bad=bad)))
    assert not bad.has_any_of(images.paths)
    assert all(close_to_picture(one) for one in pixels[::50])


def test_heic_is_turned_once(tmp_path: Path) -> None:
    """The turn of a camera is in the container, which the reader applies, and in the tags, which then say none."""
    code = (
        "import sys, pillow_heif; from PIL import ExifTags, Image; pillow_heif.register_heif_opener(); "
        "tags = Image.Exif(); tags[ExifTags.Base.Orientation] = 6; "
        "Image.new('RGB', (32, 16), 'red').save(sys.argv[1], exif=tags.tobytes())"
    )
    path = str(tmp_path / "a.heic")
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)
    assert open_picture(path).size == (16, 32)


def test_damaged_heic_is_refused(tmp_path: Path) -> None:
    write_heic(tmp_path / "a.heic")
    content = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageFileError):
        decode_image(str(tmp_path / "a.heic"), size=SIDE, channels=3)


def test_heic_without_its_package_names_the_extra(tmp_path: Path) -> None:
    write_heic(tmp_path / "a.heic")
    code = (
        "import sys; sys.modules['pillow_heif'] = None; from layermatch.data.decoding import decode_image; "
        f"decode_image({str(tmp_path / 'a.heic')!r}, size=8, channels=3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "it is a HEIC image, which the extra heif reads: pip install 'layermatch[heif]'"
    )
