"""Pictures of the page: small, all of one size, several in one JPEG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layermatch.data.decoding import ImageFileError, decode_image
from layermatch.data.file_images import FileImages
from layermatch.data.images import Images

__all__ = ["SIDE", "as_address", "sheet", "spread", "thumbnail"]

#: Height and width of a picture of the page.
SIDE = 72
_GAP = 4
_QUALITY = 80


def thumbnail(images: Images, row: int) -> Image.Image:
    """The square in the middle of a picture, which is what a network sees of it; grey where it cannot be read.

    Args:
        images: The pictures.
        row: The position of one.
    """
    if isinstance(images, FileImages):
        try:
            pixels = decode_image(images.paths[row], size=SIDE, channels=3)
        except ImageFileError:
            return Image.new("RGB", (SIDE, SIDE), "grey")
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    pixels = images.read(np.array([row], np.int64))[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if len(pixels) == 3 else pixels[0])
    return picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)


def sheet(images: Images, rows: NDArray[np.int64]) -> Image.Image:
    """Pictures side by side.

    Args:
        images: The pictures.
        rows: ``(n,)`` their positions, at least one.
    """
    made = Image.new("RGB", (len(rows) * (SIDE + _GAP) - _GAP, SIDE), "white")
    for place, row in enumerate(rows.tolist()):
        made.paste(thumbnail(images, row), (place * (SIDE + _GAP), 0))
    return made


def as_address(picture: Image.Image) -> str:
    """A picture as an address that holds it, so that the page needs no other file.

    Args:
        picture: A picture in RGB.

    Example:
        >>> as_address(Image.new("RGB", (8, 8)))[:23]
        'data:image/jpeg;base64,'
    """
    content = BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def spread(rows: Sequence[int] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """So many of the rows at most, evenly spaced.

    Args:
        rows: Positions.
        count: The most that are taken.

    Example:
        >>> spread([0, 1, 2, 3, 4], 3).tolist()
        [0, 2, 4]
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    return np.asarray(rows, np.int64)[places]
