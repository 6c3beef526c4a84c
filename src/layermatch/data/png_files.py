"""What Pillow does not do with a PNG file: skip what is damaged or huge beside its pixels, and deep transparency."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

__all__ = ["SIGNATURE", "give_deep_transparency", "without_extras"]

#: What every PNG file begins with.
SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: What a picture is made of. Others are profiles, texts, times and further pictures of an animation.
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
#: What a camera's orientation tag may be in, and the beginning of what is in there: iTXt not compressed.
_TAGS = {b"eXIf": b"", b"iTXt": b"XML:com.adobe.xmp\0\0"}
#: Tags of more bytes are left out as well, as Pillow would refuse them.
_MOST_TAGS = 2**20
#: The factors by which Pillow multiplies grey values of fewer bits, but not the transparent one.
_GREY_FACTORS = {"L;2": 85, "L;4": 17}
_RGB_16_BIT = "RGB;16B"
#: The other byte of each value: what would be the upper one, were they stored the other way round.
_LOWER_BYTES = "RGB;16L"


def without_extras(path: str) -> BytesIO | None:
    """Return a PNG file with its pixels, palette, transparency and small tags alone.

    Texts and colour profiles may be damaged, or larger than Pillow reads, where the pixels are whole.

    Args:
        path: The path of the file.

    Returns:
        The file without the rest; None if it is no PNG file.

    Raises:
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            return None
        lean = BytesIO()
        lean.write(SIGNATURE)
        lean.writelines(_chunks(file))
    lean.seek(0)
    return lean


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the chunks that are kept, as they are: of those that a picture is made of Pillow finds out the damage."""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in _PICTURE:
            yield head + file.read(length + 4)
        elif name in _TAGS and length <= _MOST_TAGS:
            body, checksum = file.read(length), file.read(4)
            if body.startswith(_TAGS[name]) and checksum == struct.pack(">I", zlib.crc32(name + body)):
                yield head + body + checksum
        else:
            file.seek(length + 4, 1)


def give_deep_transparency(image: ImageFile, open_again: Callable[[], ImageFile]) -> Image.Image:
    """Load a PNG file whose transparent colour Pillow does not find, as its bits are not those of Pillow's pixels.

    Args:
        image: An opened file, not loaded yet.
        open_again: It opens the same a second time; for where the lower bytes of the pixels are needed as well.

    Returns:
        The image, loaded. Grey ones of 16 bits still have their transparent colour beside them, of 16 bits as well.
    """
    colour, raw_mode = image.info.get("transparency"), _raw_mode(image)
    if image.format != "PNG" or colour is None:
        image.load()
        return image
    if raw_mode in _GREY_FACTORS:
        image.info["transparency"] = colour * _GREY_FACTORS[raw_mode]
    if raw_mode != _RGB_16_BIT:
        image.load()
        return image
    with open_again() as again:
        again.tile = [again.tile[0]._replace(args=_LOWER_BYTES)]
        upper, lower = (np.asarray(part) for part in (image, again))
    is_seen = ((upper != np.array(colour) >> 8) | (lower != np.array(colour) & 255)).any(axis=2)
    del image.info["transparency"]
    shown = Image.fromarray(upper)
    shown.putalpha(Image.fromarray(is_seen.astype(np.uint8) * 255))
    return shown


def _raw_mode(image: ImageFile) -> object:
    """Return how the file stores its pixels, in Pillow's words."""
    return image.tile[0].args if image.tile else None
