"""The way from an image file to pixels as a person sees them, at the size that a network wants."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from layermatch.data.png_files import SIGNATURE, give_deep_transparency, without_extras
from layermatch.data.wording import one_line, printable
from layermatch.errors import UserError

__all__ = [
    "PIL_MODES",
    "ImageFileError",
    "decode_bytes",
    "decode_image",
    "decode_picture",
    "image_endings",
    "is_image",
    "open_picture",
    "size_of_picture",
]

#: Number of channels to what Pillow calls such an image.
PIL_MODES = {1: "L", 3: "RGB"}

#: Images of more pixels (100 MB in RGB) are reduced before anything else is done, by the first of these that is enough;
#: JPEG files while they are decoded.
_LARGE = 2**25
_REDUCTIONS = (2, 4, 8)

#: So many pixels of other images are converted and reduced at a time: a copy of all would be as large as the image.
_BAND = 2**20

#: What a reduced image has at least, in sizes that are asked for: then it looks like one that was not reduced.
_FINE_ENOUGH = 2

#: What the short side of a whole picture has at least left where it is large and reduced, in pixels.
_SHORT_SIDE = 256

#: The only formats that are tried. Pillow knows more: one hands the file to another program, others are not known by
#: content.
_FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "HEIF", "JPEG2000", "ICO", "PCX", "PSD", "QOI", "SGI",
)  # fmt: skip

#: The brands of HEIC files and of their sequences.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

#: The formats whose 32-bit mode "I" holds 16-bit pixels.
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


class ImageFileError(UserError):
    """An image file cannot be decoded.

    Args:
        path: The path of the file.
        reason: What is wrong with the file, on one line.

    Attributes:
        path: The path that was given.
        reason: The reason that was given.
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
        path: The path of a file of one of the formats above (JPEG, PNG, GIF, WebP, TIFF, ...), whatever its name ends
            with. Above 2^25 pixels it is halved first, up to three times. JPEG files are so while they are decoded;
            others may have up to 178,956,970, above which Pillow refuses a decompression bomb, and are in memory once.
        size: The height and width in pixels, at least 1.
        channels: 1 or 3.

    Returns:
        ``(channels, size, size)``.

    Raises:
        ImageFileError: There is no such file, it is no whole image, it is too large, or its pixels have no range that
            is known (floating point, 32 bits).

    Example:
        >>> decode_image("no/such/file.png", size=32, channels=3)
        Traceback (most recent call last):
        layermatch.data.decoding.ImageFileError: cannot read the image no/such/file.png: No such file or directory
    """
    with _broken_named(path):
        _check_file(path)
        pixels = np.asarray(_resize_and_crop(_decoded(path, size=size, mode=PIL_MODES[channels]), size))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_bytes(content: bytes, *, size: int, channels: int, name: str) -> NDArray[np.uint8]:
    """Decode the content of an image file, as :func:`decode_image` does the file itself.

    Args:
        content: All bytes of the file.
        size: The height and width in pixels, at least 1.
        channels: 1 or 3.
        name: What the image is called in errors.

    Returns:
        ``(channels, size, size)``.

    Raises:
        ImageFileError: See :func:`decode_image`. A PNG file is refused for damage beside its pixels, too.

    Example:
        >>> decode_bytes(b"", size=32, channels=3, name="a.tar/1.jpg")
        Traceback (most recent call last):
        layermatch.data.decoding.ImageFileError: cannot read the image a.tar/1.jpg: it is empty
    """
    with _broken_named(name):
        if not content:
            raise ValueError("it is empty")
        pixels = np.asarray(_resize_and_crop(_picture(BytesIO(content), size=size, mode=PIL_MODES[channels]), size))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def open_picture(path: str, *, at_most: int | None = None) -> Image.Image:
    """Decode an image file as :func:`decode_image` does, and keep the whole picture.

    Args:
        path: The path of a file, as :func:`decode_image` takes it.
        at_most: The longer side has at most so many pixels, at least 1; a smaller picture stays as it is. JPEG files
            are reduced while they are decoded, as far as this allows.

    Returns:
        The picture in RGB: without ``at_most`` at its own size, or reduced where it has more than 2^25 pixels.

    Raises:
        ImageFileError: The file cannot be decoded, for the reasons that :func:`decode_image` has.

    Example:
        >>> open_picture("no/such/file.png")
        Traceback (most recent call last):
        layermatch.data.decoding.ImageFileError: cannot read the image no/such/file.png: No such file or directory
    """
    with _broken_named(path):
        _check_file(path)
        if at_most is None:
            return _decoded(path, size=_SHORT_SIDE, mode=PIL_MODES[3])
        image = _decoded(path, size=at_most, mode=PIL_MODES[3], is_draft=True)
        image.thumbnail((at_most, at_most), Image.Resampling.BICUBIC)
    return image


def decode_picture(picture: Image.Image, *, size: int, channels: int) -> NDArray[np.uint8]:
    """Return what :func:`decode_image` makes of a picture that is open already.

    Args:
        picture: The picture. One that was opened from a file and not loaded yet gives the same pixels as its file;
            of several frames the one that was sought counts. It is left as it is.
        size: The height and width in pixels, at least 1.
        channels: 1 or 3.

    Returns:
        ``(channels, size, size)``.

    Raises:
        ImageFileError: It is damaged, or its pixels have no range that is known (floating point, 32 bits).

    Example:
        >>> decode_picture(Image.new("RGBA", (40, 30)), size=8, channels=1).shape
        (1, 8, 8)
    """
    name = str(getattr(picture, "filename", ""))
    is_as_opened = bool(getattr(picture, "tile", None)) and picture.tell() == 0  # its file is read at the first frame
    if name and is_as_opened and os.path.isfile(name):  # noqa: PTH113 -- Path's own may raise
        return decode_image(name, size=size, channels=channels)
    with _broken_named(name):
        shown = _reduced(picture, picture.format, size=size, mode=PIL_MODES[channels])
        _put_upright(shown, picture)
        pixels = np.asarray(_resize_and_crop(shown, size))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def image_endings() -> frozenset[str]:
    """Return the endings that files of the formats which are read have, in lower case.

    Example:
        >>> {".jpg", ".png", ".webp"} <= image_endings(), ".txt" in image_endings()
        (True, False)
    """
    formats = _formats()
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def size_of_picture(path: str) -> tuple[int, int]:
    """Return the width and the height of a picture in pixels, as its file stores it; nothing is decoded.

    Args:
        path: The path of a file.

    Raises:
        ImageFileError: The file is no image that is read.

    Example:
        >>> size_of_picture("no/such/file.png")
        Traceback (most recent call last):
        layermatch.data.decoding.ImageFileError: cannot read the image no/such/file.png: No such file or directory
    """
    with _broken_named(path):
        _check_file(path)
        with _open(path, reduces=False) as image:
            return image.size


@contextmanager
def _broken_named(path: str) -> Iterator[None]:
    """Turn what Pillow raises for broken files into the error that names the file; a picture may have no name."""
    try:
        # Pillow warns of damaged tags and of large images: neither is of use to the user, each time again.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _BROKEN as error:
        raise ImageFileError(path or "that was given", _reason(error, path)) from error


def _check_file(path: str) -> None:
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    if status.st_size == 0:
        raise ValueError("it is empty")


def is_image(path: str) -> bool:
    """Return whether a file is an image of a format that is read, by its content: whole, or damaged further on.

    Args:
        path: The path of any file.

    Example:
        >>> is_image(__file__)
        False
    """
    try:
        _check_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _open(path).close()
    except Image.DecompressionBombError:
        return True
    except _BROKEN:
        return _is_png(path)  # with damage before its pixels
    return True


def _is_png(path: str) -> bool:
    try:
        _check_file(path)
        with Path(path).open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except (OSError, ValueError):
        return False


def _decoded(path: str, *, size: int, mode: str, is_draft: bool = False) -> Image.Image:
    try:
        return _picture(path, size=size, mode=mode, is_draft=is_draft)
    except (UnidentifiedImageError, SyntaxError, ValueError):
        lean = without_extras(path)
        if lean is None:
            raise
    return _picture(lean, size=size, mode=mode)


def _picture(source: str | BytesIO, *, size: int, mode: str, is_draft: bool = False) -> Image.Image:
    """Return what a person sees, in ``mode``; a large image is reduced to what ``size`` needs."""
    with _open(source) as file:
        if is_draft and isinstance(file, JpegImageFile) and not file.decoderconfig:  # not reduced so far
            file.draft(mode, (_FINE_ENOUGH * size, _FINE_ENOUGH * size))
        image = give_deep_transparency(file, lambda: _open(source))
        shown = _reduced(image, file.format, size=size, mode=mode)
        _put_upright(shown, file)
    return shown


def _open(source: str | BytesIO, *, reduces: bool = True) -> ImageFile:
    if isinstance(source, BytesIO):
        source = BytesIO(source.getbuffer())  # each opened image has a position of its own
    try:
        image: ImageFile = Image.open(source, formats=_formats())
    except Image.DecompressionBombError as error:
        image = _open_large_jpeg(source, error)
    if reduces and isinstance(image, JpegImageFile) and image.width * image.height > _LARGE:
        enough = (by for by in _REDUCTIONS if image.width * image.height <= _LARGE * by**2)
        by = next(enough, _REDUCTIONS[-1])
        image.draft(None, (image.width // by, image.height // by))
    return image


@cache
def _register_heif() -> None:
    """Let Pillow open HEIC files, where the package for it is installed; once in each process."""
    with suppress(ImportError):  # the extra is not installed: such files are then of no format that is read
        import_module("pillow_heif").register_heif_opener()


def _formats() -> tuple[str, ...]:
    """Return the formats that this Pillow has."""
    _register_heif()
    if not set(_FORMATS) <= set(Image.OPEN):
        Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _open_large_jpeg(source: str | BytesIO, error: Image.DecompressionBombError) -> JpegImageFile:
    """Return a JPEG file above Pillow's limit: an eighth of a side can be decoded without the rest being in memory."""
    try:
        image = JpegImageFile(source)
    except SyntaxError:
        raise error from None
    if image.info.get("progressive"):  # its coefficients would all be in memory
        image.close()
        raise error
    return image


def _put_upright(image: Image.Image, file: Image.Image) -> None:
    """Turn an image as the tags of the loaded file say; here and not there, as it may be much smaller."""
    image.info = {}  # of the tags the orientation alone, whatever is wrong with others
    try:
        image.getexif()[ExifTags.Base.Orientation] = file.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
    except _BROKEN:  # damaged tags are no reason to do without the pixels
        return


def _reduced(image: Image.Image, file_format: str | None, *, size: int, mode: str) -> Image.Image:
    """Return an image as it is seen; a large one at a whole part of its size."""
    width, height = image.size
    if width * height <= _LARGE:
        return _seen(image, file_format, mode)
    legal = [1, *(by for by in _REDUCTIONS if min(width, height) >= by * size * _FINE_ENOUGH)]
    by = next((by for by in legal if width * height <= _LARGE * by**2), legal[-1])
    reduced = Image.new(mode, (-(-width // by), -(-height // by)))
    rows = by * max(1, _BAND // (by * width))
    for top in range(0, height, rows):
        band = _seen(image.crop((0, top, width, min(top + rows, height))), file_format, mode)
        reduced.paste(band.reduce(by), (0, top // by))
    return reduced


def _seen(image: Image.Image, file_format: str | None, mode: str) -> Image.Image:
    return _over_white(_in_8_bits(image, file_format)).convert(mode)


def _in_8_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in _FORMATS_WITH_16_BITS_IN_32):
        # The upper 8 bits, as Pillow does with three channels; its own conversion would clip at 255, to white.
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if "transparency" in image.info:
            grey.putalpha(Image.fromarray((values != image.info["transparency"]).astype(np.uint8) * 255))
        return grey
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


def _is_heif(path: str) -> bool:
    """Return whether a file says that it is of the family of HEIC (ISO 23008-12), by the brand in its first box."""
    try:
        with Path(path).open("rb") as file:
            begin = file.read(12)
    except (OSError, ValueError):
        return False
    return begin[4:8] == b"ftyp" and begin[8:12] in _HEIF_BRANDS


def _reason(error: Exception, path: str) -> str:
    if isinstance(error, UnidentifiedImageError) and _is_heif(path) and "HEIF" not in Image.OPEN:
        return "it is a HEIC image, which the extra heif reads: pip install 'layermatch[heif]'"
    if isinstance(error, UnidentifiedImageError):
        return f"it is no image of a format that is read ({', '.join(_FORMATS)})"
    if str(error) == "Truncated File Read":  # of Pillow's
        return "it is cut off: the file ends before its pixels do"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error)
