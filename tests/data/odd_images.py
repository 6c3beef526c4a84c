"""Image files of every unusual kind: those that are to look like one picture, and those that are to be refused.

Pillow writes them where it can. The pixels of the large ones would fill gigabytes, so only their files are made.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, features

Pixels = NDArray[np.uint8]
Writer = Callable[[Path], Any]

SIDE = 16
#: Four squares of one colour each; the last one is what transparent variants leave out.
COLOURS = np.array([[[200, 40, 40], [40, 160, 60]], [[60, 80, 220], [255, 255, 255]]], np.uint8)
PICTURE: Pixels = COLOURS.repeat(SIDE // 2, axis=0).repeat(SIDE // 2, axis=1)


def picture() -> Image.Image:
    return Image.fromarray(PICTURE)


def grey_picture() -> Image.Image:
    return picture().convert("L")


# ------------------------------------------------------------------------------------------ files that show the picture


def stored_as(mode: str, **options: Any) -> Writer:
    return lambda path: picture().convert(mode).save(path, **options)


def alpha() -> Pixels:
    """Opaque but for the white square, and that is black beneath."""
    opaque = np.full((SIDE, SIDE), 255, np.uint8)
    opaque[SIDE // 2 :, SIDE // 2 :] = 0
    return opaque


def blackened() -> Pixels:
    return np.where(alpha()[..., None] == 0, 0, PICTURE).astype(np.uint8)


def transparent(mode: str) -> Writer:
    def write(path: Path) -> None:
        image = Image.fromarray(blackened()).convert(mode[:-1])
        image.putalpha(Image.fromarray(alpha()))
        image.save(path, lossless=True)

    return write


def palette_with_transparency(path: Path) -> None:
    image = Image.fromarray(blackened()).quantize(4)
    image.save(path, transparency=int(np.asarray(image)[-1, -1]))


def rgb_with_a_transparent_colour(path: Path) -> None:
    Image.fromarray(blackened()).save(path, transparency=(0, 0, 0))


def grey_16_bit(path: Path) -> None:
    """The low bytes are as high as can be: rounding up, or reading them, would show."""
    Image.fromarray(np.asarray(grey_picture()).astype(np.uint16) * 256 + 255).save(path)


def rgb_16_bit(path: Path) -> None:
    rows = (PICTURE.astype(">u2") * 256 + 255).astype(">u2")
    write_png(path, rows.tobytes(), size=(SIDE, SIDE), bits=16, kind=2)


def rgba_16_bit(path: Path) -> None:
    rows = (np.dstack([blackened(), alpha()]).astype(">u2") * 257).astype(">u2")
    write_png(path, rows.tobytes(), size=(SIDE, SIDE), bits=16, kind=6)


def grey_16_bit_with_a_transparent_colour(path: Path) -> None:
    """The transparent grey and that of the blue square differ in their lower bytes alone."""
    values = np.asarray(grey_picture()).astype(">u2") * 256 + 255
    colour = int(values[-1, 0]) - 1
    values[alpha() == 0] = colour
    chunk = (b"tRNS", struct.pack(">H", colour))
    write_png(path, values.astype(">u2").tobytes(), size=(SIDE, SIDE), bits=16, kind=0, before=[chunk])


def rgb_16_bit_with_a_transparent_colour(path: Path) -> None:
    """The transparent colour and that of the blue square differ in one lower byte alone."""
    values = PICTURE.astype(">u2") * 256 + 255
    colour = values[-1, 0] - np.array([0, 0, 1])
    values[alpha() == 0] = colour
    chunk = (b"tRNS", struct.pack(">3H", *colour.tolist()))
    write_png(path, values.astype(">u2").tobytes(), size=(SIDE, SIDE), bits=16, kind=2, before=[chunk])


#: More than Pillow takes of one text or profile.
LONG = 3 * 2**20


def with_chunk(name: bytes, body: bytes, *, is_late: bool = False) -> Writer:
    """The picture as a PNG file, and something beside it."""
    beside = {"after" if is_late else "before": [(name, body)]}
    return lambda path: write_png(path, PICTURE.tobytes(), size=(SIDE, SIDE), bits=8, kind=2, **beside)


def damaged_profile(path: Path) -> None:
    """A colour profile that is not what its checksum says."""
    with_chunk(b"iCCP", b"name\0\0" + zlib.compress(b"a profile"))(path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"iCCP") + 12] ^= 255
    path.write_bytes(raw)


def turned_with_a_long_text(path: Path) -> None:
    """The orientation tag is read, whatever is left out."""
    turned(6)(path)
    raw = path.read_bytes()
    cut = raw.index(b"IDAT") - 4
    path.write_bytes(raw[:cut] + png_chunk(b"tEXt", b"key\0" + b"a" * LONG * 32) + raw[cut:])


# What a camera does to the picture that it then says how to put right.
STORED_TURNED = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


def turned(orientation: int, **options: Any) -> Writer:
    def write(path: Path) -> None:
        image = picture()
        for turn in STORED_TURNED[orientation]:
            image = image.transpose(turn)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        image.save(path, exif=exif, **options)

    return write


def damaged_exif(path: Path) -> None:
    picture().save(path, exif=b"Exif\x00\x00MM\x00*" + b"\xff" * 40, quality=95, subsampling=0)


def animated(**options: Any) -> Writer:
    """The picture, and then a black one."""
    black = Image.new("RGB", (SIDE, SIDE))
    return lambda path: picture().save(path, save_all=True, append_images=[black], duration=50, **options)


JPEG = {"quality": 95, "subsampling": 0}
#: File name to what writes it. All of them look like :data:`PICTURE`, or like that in grey if the name says so.
HANDLED: dict[str, Writer] = {
    "grey.png": stored_as("L"),
    "grey.jpg": stored_as("L", **JPEG),
    "cmyk.jpg": stored_as("CMYK", **JPEG),
    "cmyk.tif": stored_as("CMYK"),
    "palette.png": lambda path: picture().quantize(4).save(path),
    "rgba.png": transparent("RGBA"),
    "rgba.tif": lambda path: Image.fromarray(np.dstack([blackened(), alpha()])).save(path),
    "rgba.webp": transparent("RGBA"),
    "grey_alpha.png": transparent("LA"),
    "palette_alpha.png": palette_with_transparency,
    "palette_alpha.gif": palette_with_transparency,
    "rgb_alpha.png": rgb_with_a_transparent_colour,
    "grey_16_bit.png": grey_16_bit,
    "grey_16_bit.tif": grey_16_bit,
    "grey_16_bit.pgm": grey_16_bit,
    "rgb_16_bit.png": rgb_16_bit,
    "rgba_16_bit.png": rgba_16_bit,
    "grey_16_bit_alpha.png": grey_16_bit_with_a_transparent_colour,
    "rgb_16_bit_alpha.png": rgb_16_bit_with_a_transparent_colour,
    "long_text.png": with_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(LONG))),
    "long_unicode_text.png": with_chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"a" * LONG)),
    "long_late_text.png": with_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(LONG)), is_late=True),
    "long_profile.png": with_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(LONG))),
    "damaged_profile.png": damaged_profile,
    "turned_with_a_long_text.png": turned_with_a_long_text,
    "picture.jfif": stored_as("RGB", **JPEG, format="JPEG"),
    **({"picture.avif": stored_as("RGB", quality=100, subsampling="4:4:4")} if features.check("avif") else {}),
    **({"picture.jp2": stored_as("RGB")} if features.check("jpg_2000") else {}),
    "picture.qoi": stored_as("RGB"),
    "picture.pcx": stored_as("RGB"),
    "picture.sgi": stored_as("RGB"),
    "picture.ico": stored_as("RGB", sizes=[(SIDE, SIDE)]),
    **{f"turned_{orientation}.jpg": turned(orientation, **JPEG) for orientation in STORED_TURNED},
    "turned_6.png": turned(6),
    "turned_8.webp": turned(8, lossless=True),
    "turned_6.tif": turned(6),
    "damaged_exif.jpg": damaged_exif,
    "animated.gif": animated(),
    "animated.png": animated(),
    "animated.webp": animated(lossless=True),
    "two_pages.tif": animated(),
    "two_pictures.jpg": animated(**JPEG, format="MPO"),
    "progressive.jpg": stored_as("RGB", **JPEG, progressive=True),
    "jpeg_named.png": lambda path: picture().save(path, "JPEG", **JPEG),
}


def expected(name: str) -> Pixels:
    """``(SIDE, SIDE, 3)``: what the file shows."""
    return np.asarray(grey_picture().convert("RGB")) if name.startswith("grey") else PICTURE


# ---------------------------------------------------------------------------------------------------------- large files

LARGE_SIDE = 30_000


def write_large_jpeg(path: Path, *, progressive: bool = False) -> None:
    """30,000 x 30,000 grey pixels, all 128, in 10 MB (whole), or a few hundred bytes (progressive, and cut off)."""
    buffer = BytesIO()
    Image.new("L", (8, 8), 128).save(buffer, "JPEG", progressive=progressive)
    raw = bytearray(buffer.getvalue())
    frame = raw.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", LARGE_SIDE, LARGE_SIDE)
    if not progressive:
        scan = raw.index(b"\xff\xda")
        first = scan + 2 + int.from_bytes(raw[scan + 2 : scan + 4], "big")
        # A block is 001010 in Pillow's tables: no difference to the one before, and nothing else. Four make 3 bytes.
        four_blocks = int("001010" * 4, 2).to_bytes(3, "big")
        raw[first:] = four_blocks * ((LARGE_SIDE // 8) ** 2 // 4) + b"\xff\xd9"
    path.write_bytes(raw)


def write_large_png(path: Path) -> None:
    """30,000 x 30,000 black pixels in 110 kB: a decompression bomb."""
    write_png(path, None, size=(LARGE_SIDE, LARGE_SIDE), bits=1, kind=0)


def write_wide_png(path: Path) -> None:
    """30,000 x 16 pixels: the picture, in a row."""
    Image.fromarray(np.tile(PICTURE, (1, LARGE_SIDE // SIDE, 1))).save(path)


def write_strip(path: Path) -> None:
    """30,000 x 1 pixels: resized as a whole to a height of 224 it would fill 4.5 GB."""
    Image.new("RGB", (LARGE_SIDE, 1), (200, 40, 40)).save(path)


Chunk = tuple[bytes, bytes]


def write_png(
    path: Path,
    pixels: bytes | None,
    *,
    size: tuple[int, int],
    bits: int,
    kind: int,
    before: Sequence[Chunk] = (),
    after: Sequence[Chunk] = (),
) -> None:
    """A PNG file of a kind that Pillow does not write; None are pixels that are all 0, others have whole bytes."""
    width, height = size
    compressor = zlib.compressobj(6)
    data = b"".join(compressor.compress(row) for row in _png_rows(pixels, height, bits * width // 8))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *before, (b"IDAT", data + compressor.flush()), *after, (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in chunks))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png_rows(pixels: bytes | None, height: int, empty_row: int) -> Iterator[bytes]:
    if pixels is None:
        yield from (bytes(1 + empty_row) for _ in range(height))
        return
    length = len(pixels) // height
    yield from (b"\0" + pixels[start : start + length] for start in range(0, len(pixels), length))


# ------------------------------------------------------------------------------------------------------ files to refuse


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def cut_off(**options: Any) -> Writer:
    def write(path: Path) -> None:
        noise().save(path, **options)
        os.truncate(path, path.stat().st_size // 2)

    return write


def cut_off_early(path: Path) -> None:
    """In the middle of its first chunk."""
    noise().save(path)
    os.truncate(path, 20)


def damaged(path: Path) -> None:
    """Bytes of 0 in the middle of the compressed pixels."""
    noise().save(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 200] = bytes(200)
    path.write_bytes(raw)


def gif_that_is_declared_huge(path: Path) -> None:
    picture().quantize(4).save(path)
    raw = bytearray(path.read_bytes())
    raw[6:10] = struct.pack("<HH", 60_000, 60_000)
    path.write_bytes(raw)


#: File name to what writes it, and the beginning of the reason that is given.
REFUSED: dict[str, tuple[Writer, str]] = {
    "empty.png": (lambda path: path.write_bytes(b""), "it is empty"),
    "text.jpg": (
        lambda path: path.write_text("<html>404</html>"),
        "it is no image of a format that is read (JPEG, PNG,",
    ),
    "postscript.jpg": (lambda path: picture().save(path, "EPS"), "it is no image of a format that is read (JPEG, PNG,"),
    "cut_off.jpg": (cut_off(quality=95), "image file is truncated"),
    "cut_off.png": (cut_off(), "image file is truncated"),
    "cut_off.gif": (cut_off(), "image file is truncated"),
    "cut_off.bmp": (cut_off(), "image file is truncated"),
    "cut_off.webp": (cut_off(lossless=True), ""),
    "cut_off.tif": (cut_off(), ""),
    "damaged.png": (damaged, ""),
    "floats.tif": (lambda path: Image.new("F", (8, 8)).save(path), "its floating-point pixels have no known range"),
    "32_bit.tif": (lambda path: Image.new("I", (8, 8)).save(path), "its 32-bit or signed pixels have no known range"),
    "bomb.png": (write_large_png, "Image size (900000000 pixels) exceeds limit of 178956970 pixels"),
    "bomb.gif": (gif_that_is_declared_huge, "Image size (3600000000 pixels) exceeds limit of 178956970 pixels"),
    "bomb.jpg": (
        lambda path: write_large_jpeg(path, progressive=True),
        "Image size (900000000 pixels) exceeds limit of 178956970 pixels",
    ),
    "pipe.png": (os.mkfifo, "it is no file"),
    "link_to_nothing.png": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "line\nbreak.png": (lambda path: path.write_bytes(b""), "it is empty"),
    "cut_off_early.png": (cut_off_early, "it is cut off: the file ends before its pixels do"),
}
