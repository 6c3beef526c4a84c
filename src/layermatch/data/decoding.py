"""From an image file to pixels as a person sees them, at the size that a network wants."""

from __future__ import annotations

import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from layermatch.data.wording import one_line, printable
from layermatch.errors import UserError

__all__ = ["MAX_PIXELS", "PIL_MODES", "ImageFileError", "decode_image"]

#: Number of channels to what Pillow calls such an image.
PIL_MODES = {1: "L", 3: "RGB"}

#: No image of more pixels is decoded: there Pillow takes a file for a decompression bomb.
MAX_PIXELS = 178_956_970

#: JPEG files of more pixels (100 MB in RGB) are reduced while they are decoded, by the first of these that is enough.
_LARGE = 2**25
_REDUCTIONS = (2, 4, 8)

#: Only these are tried. Pillow knows more: one of them hands the file to another program.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
#: Those whose 32-bit mode "I" holds 16-bit pixels.
_FORMATS_WITH_16_BITS_IN_32 = ("PNG", "PPM")

#: What Pillow raises for broken files.
_BROKEN = (
    OSError,
    SyntaxError,  # PNG
    ValueError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

#: From a camera's orientation tag to what puts the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFileError(UserError):
    """An image file cannot be decoded.

    Args:
        path: of the file.
        reason: what is wrong with it, on one line.

    Attributes:
        path: as given.
        reason: as given.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read the image {printable(path)}: {reason}")
        self.path = path
        self.reason = reason


def decode_image(path: str, *, size: int, channels: int) -> NDArray[np.uint8]:
    """Decode an image file.

    What a person would see in it: the orientation tag of a camera is applied, transparency lies on white, of 16 bits a
    channel the upper 8 are taken, and of an animation or of several pages the first picture. CMYK, grey and palettes
    become RGB (``channels=3``) or grey (``channels=1``). Unless it is ``size x size`` then, its short side is resized
    to ``size`` (bicubic, with antialiasing) and the centre ``size x size`` is cut out.

    Args:
        path: of a JPEG, PNG, GIF, WebP, TIFF, BMP or PPM file, whatever its name ends with. A JPEG file above 2^25
            pixels is halved while it is decoded, up to three times; other files may have up to :data:`MAX_PIXELS`.
        size: height and width in pixels, at least 1.
        channels: 1 or 3.

    Returns:
        ``(channels, size, size)``.

    Raises:
        ImageFileError: there is no such file, it is no whole image, it is too large, or its pixels have no range that
            is known (floating point, 32 bits).

    Example:
        >>> decode_image("no/such/file.png", size=32, channels=3)
        Traceback (most recent call last):
        layermatch.data.decoding.ImageFileError: cannot read the image no/such/file.png: No such file or directory
    """
    try:
        _check_file(path)
        # Pillow warns of damaged tags and of large images: neither is of use to the user, each time again.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path) as file:
                file.load()
                image = _over_white(_in_8_bits(_upright(file), file.format)).convert(PIL_MODES[channels])
        pixels = np.asarray(_resize_and_crop(image, size))
    except _BROKEN as error:
        raise ImageFileError(path, _reason(error)) from error
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _check_file(path: str) -> None:
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    if status.st_size == 0:
        raise ValueError("it is empty")


def _open(path: str) -> ImageFile:
    try:
        image: ImageFile = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        image = _open_large_jpeg(path, error)
    if isinstance(image, JpegImageFile) and image.width * image.height > _LARGE:
        enough = (by for by in _REDUCTIONS if image.width * image.height <= _LARGE * by**2)
        by = next(enough, _REDUCTIONS[-1])
        image.draft(None, (image.width // by, image.height // by))
    return image


def _open_large_jpeg(path: str, error: Image.DecompressionBombError) -> JpegImageFile:
    """A JPEG file above Pillow's limit: an eighth of a side can be decoded without the rest being in memory."""
    try:
        image = JpegImageFile(path)
    except SyntaxError:
        raise error from None
    if image.info.get("progressive"):  # its coefficients would all be in memory
        image.close()
        raise error
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:  # damaged tags are no reason to do without the pixels
        return image
    return image if turn is None else image.transpose(turn)


def _in_8_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in _FORMATS_WITH_16_BITS_IN_32):
        # The upper 8 bits, as Pillow does with three channels; its own conversion would clip at 255, to white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise ValueError(f"its {kind} pixels have no known range; save it with 8 or 16 bits a channel")
    return image


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    short = min(image.size)
    width, height = (size * side // short for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    if width * height > _LARGE:  # a narrow strip: resized as a whole, a few kilobytes could become gigabytes
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if short != size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is no image of a format that is read ({', '.join(_FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
