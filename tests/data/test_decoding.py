"""Image files look as they do to a person, whatever they are; what cannot is named with its reason."""

from __future__ import annotations

import resource
import warnings
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from tests.data import odd_images
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from layermatch.data import decoding
from layermatch.data.decoding import ImageFileError, decode_image, decode_picture


def decoded(
    path: Path, *, size: int = odd_images.SIDE, channels: int = 3
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """``(size, size, channels)``, of a type that differences can be taken in."""
    return decode_image(str(path), size=size, channels=channels).transpose(1, 2, 0).astype(np.int64)


def random_image(seed: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# ----------------------------------------------------------------------------------------------------- plain pictures


@pytest.mark.parametrize("size", [16, 17, 40])
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (40, 40), (23, 57), (61, 20), (17, 41), (16, 19), (19, 16), (5, 9)]
)
def test_plain_pictures_are_what_pillow_and_torchvision_make_of_them(
    tmp_path: Path, height: int, width: int, size: int
) -> None:
    image = random_image(height * width, height, width)
    image.save(tmp_path / "image.png")
    transform = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])
    np.testing.assert_array_equal(decoded(tmp_path / "image.png", size=size), np.asarray(transform(image)))


def test_an_image_of_the_right_size_is_read_unchanged(tmp_path: Path) -> None:
    image = random_image(3, 24, 24)
    image.save(tmp_path / "image.bmp")
    np.testing.assert_array_equal(decoded(tmp_path / "image.bmp", size=24), np.asarray(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image = random_image(4, 12, 12).convert(mode)
    image.save(path)
    as_asked = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(12, 12, channels)
    np.testing.assert_array_equal(decoded(path, size=12, channels=channels), as_asked)


# ------------------------------------------------------------------------------------------------------- odd pictures


@pytest.mark.parametrize("name", odd_images.HANDLED)
def test_odd_files_show_the_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    odd_images.HANDLED[name](path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor does Pillow warn of them, in each epoch again
        assert np.abs(decoded(path) - odd_images.expected(name)).max() <= 1  # JPEG rounds


@pytest.mark.parametrize("name", ["rgba.png", "turned_6.jpg", "rgb_16_bit.png", "animated.gif", "cmyk.tif"])
def test_odd_files_are_shown_in_grey_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    odd_images.HANDLED[name](path)
    grey = np.asarray(Image.fromarray(odd_images.PICTURE).convert("L"))
    assert np.abs(decoded(path, channels=1)[..., 0] - grey).max() <= 1


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_of_an_open_animation_the_frame_that_was_sought_is_read(ending: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"frames.{ending}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {}))
    with Image.open(path) as picture:
        for number in (2, 1, 0):
            picture.seek(number)
            found = decode_picture(picture, size=10, channels=3)
            expected = decode_picture(frames[number], size=10, channels=3)
            np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=3)
            assert picture.tell() == number


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (100, 0, 255, 51)).save(tmp_path / "image.png")
    assert decoded(tmp_path / "image.png", size=8)[0, 0].tolist() == [224, 204, 255]  # a fifth, and four of white


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_is_found_whatever_its_bits(bits: int, tmp_path: Path) -> None:
    """Rows of the two highest greys, of which one is transparent; none of them is black."""
    high = 2**bits - 1
    for transparent in (high, high - 1):
        row = int("".join(f"{value:0{bits}b}" for value in [high, high - 1] * 4), 2).to_bytes(bits, "big")
        chunk = (b"tRNS", transparent.to_bytes(2, "big"))
        path = tmp_path / f"{transparent}.png"
        odd_images.write_png(path, row * 8, size=(8, 8), bits=bits, kind=0, before=[chunk])
        stored = {high: 255, high - 1: (high - 1) >> 8 if bits == 16 else round((high - 1) * 255 / high)}
        expected = [255 if value == transparent else stored[value] for value in (high, high - 1)]
        assert decoded(path, size=8, channels=1)[0, :2, 0].tolist() == expected


@pytest.mark.parametrize("value", [0, 1, 255, 256, 30_000, 65_535])
def test_16_bits_are_scaled_and_not_clipped(value: int, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / "image.png")
    assert decoded(tmp_path / "image.png", size=8)[0, 0].tolist() == [value // 256] * 3


# ------------------------------------------------------------------------------------------------------ large pictures


def peak_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


needs_peak = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts peaks of memory")


@needs_peak
def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    odd_images.write_large_jpeg(path)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is used now
    before = peak_memory()
    assert (decoded(path) == 128).all()
    assert peak_memory() - before < 250e6  # it has 900 million pixels


def test_a_reduced_jpeg_looks_the_same(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    image = smooth.resize((6400, 6400), Image.Resampling.BICUBIC)
    image.save(tmp_path / "large.jpg", quality=95)
    whole = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decoded(tmp_path / "large.jpg", size=32) - whole).max() <= 4


def test_a_wide_picture_is_cut_to_its_centre(tmp_path: Path) -> None:
    odd_images.write_wide_png(tmp_path / "wide.png")
    shifted = np.roll(odd_images.PICTURE, odd_images.SIDE // 2, axis=1)  # 30,000 / 16 is odd
    centre = decoded(tmp_path / "wide.png")
    assert any((centre == picture).all() for picture in (odd_images.PICTURE, shifted))


@needs_peak
def test_a_strip_does_not_become_gigabytes(tmp_path: Path) -> None:
    odd_images.write_strip(tmp_path / "strip.png")
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    assert (decoded(tmp_path / "strip.png", size=224) == [200, 40, 40]).all()
    assert peak_memory() - before < 50e6


def test_a_strip_is_what_it_would_be_as_a_whole(tmp_path: Path) -> None:
    image = random_image(0, 2, 5000)
    image.save(tmp_path / "strip.png")
    size, width = 120, 120 * 5000 // 2
    left = round((width - size) / 2)
    whole = image.resize((width, size), Image.Resampling.BICUBIC).crop((left, 0, left + size, size))
    assert np.abs(decoded(tmp_path / "strip.png", size=size) - np.asarray(whole)).max() <= 1


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", odd_images.REFUSED)
def test_files_that_cannot_be_shown_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write, reason = odd_images.REFUSED[name]
    write(path)
    with pytest.raises(ImageFileError) as caught:
        decoded(path)
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(reason)
    assert caught.value.reason
    assert "\n" not in str(caught.value)


@needs_peak
@pytest.mark.parametrize("name", ["bomb.png", "bomb.gif", "bomb.jpg"])
def test_decompression_bombs_take_no_memory(name: str, tmp_path: Path) -> None:
    odd_images.REFUSED[name][0](tmp_path / name)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    with pytest.raises(ImageFileError):
        decoded(tmp_path / name)
    assert peak_memory() - before < 10e6


def test_no_damage_escapes(tmp_path: Path) -> None:
    """Whatever bytes are changed or lost: an image or an error with a name, no other exception."""
    rng = np.random.default_rng(0)
    names = ("rgb_16_bit.png", "palette_alpha.gif", "turned_6.jpg", "animated.webp", "cmyk.tif", "grey_16_bit.pgm")
    outcomes = set()
    for name in names:
        odd_images.HANDLED[name](tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for _ in range(100):
            raw = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
            for place in rng.integers(len(raw), size=4) if raw else ():
                raw[place] = rng.integers(256)
            (tmp_path / name).write_bytes(raw)
            try:
                outcomes.add(decoded(tmp_path / name).shape)
            except ImageFileError as error:
                outcomes.add(type(error))
    assert outcomes == {(odd_images.SIDE, odd_images.SIDE, 3), ImageFileError}


def test_a_large_picture_is_in_memory_once(tmp_path: Path) -> None:
    """6,000 x 6,000 pixels with transparency: 144 MB, of which each step of a conversion would make another copy."""
    side = 6000
    path = tmp_path / "large.png"
    image = Image.new("RGBA", (side, side), (0, 0, 255, 255))
    image.paste((9, 9, 9, 0), (side // 2, 0, side, side))
    image.save(path, compress_level=1)
    del image
    receive, send = Pipe(duplex=False)
    child = get_context("fork").Process(target=_decode_and_measure, args=(path, send))
    child.start()
    grown, pixels = receive.recv()
    child.join()
    assert pixels[:, 16, 4].tolist() == [0, 0, 255]
    assert pixels[:, 16, -4].tolist() == [255, 255, 255]
    assert grown < 1.5 * 4 * side**2


def _decode_and_measure(path: Path, send: Connection) -> None:
    # A forked process starts with the memory that its parent has now.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = decode_image(str(path), size=32, channels=3)
    send.send(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, pixels))


@pytest.mark.parametrize("size", [32, 100])
def test_a_large_picture_looks_like_one_that_is_not_reduced(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a few hundredths of the range: a picture with much detail, turned by its tag."""
    monkeypatch.setattr(decoding, "_LARGE", 2**16)  # so that it need not be of 33 million pixels
    monkeypatch.setattr(decoding, "_BAND", 2**13)
    image = random_image(1, 60, 90).resize((720, 480), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    image.save(tmp_path / "large.png", exif=exif, compress_level=1)
    wide = size * 720 // 480
    scaled = image.transpose(Image.Transpose.ROTATE_180).resize((wide, size), Image.Resampling.BICUBIC)
    left = round((wide - size) / 2)
    expected = np.asarray(scaled.crop((left, 0, left + size, size))).astype(np.int64)
    difference = np.abs(decoded(tmp_path / "large.png", size=size) - expected)
    assert difference.mean() < 2
    assert difference.max() <= 12


def test_a_narrow_large_picture_keeps_its_short_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_LARGE", 2**16)
    columns = np.tile(np.array([[0, 255]], np.uint8), (2000, 20))  # 40 pixels wide, black and white in turn
    Image.fromarray(columns).save(tmp_path / "narrow.png", compress_level=1)
    assert decoded(tmp_path / "narrow.png", size=40, channels=1)[20, :, 0].tolist() == [0, 255] * 20
