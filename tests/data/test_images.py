"""Images are read as they are stored: compared with what was written, or with Pillow and torchvision."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from layermatch import UserError
from layermatch.data.images import ArrayImages, ConcatImages, FileImages, Images, SubsetImages, take

STORED = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "NCWH": (0, 1, 3, 2)}


def random_images(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def all_of(images: Images) -> NDArray[np.int64]:
    return np.arange(len(images))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", STORED)
def test_array_images_read_every_layout(layout: str, channels: int) -> None:
    expected = random_images(0, 6, channels, 5, 7)
    images = ArrayImages(np.ascontiguousarray(expected.transpose(STORED[layout])), layout=layout)
    indices = np.array([4, 0, 4, 5])
    batch = images.read(indices)
    assert images.shape == (channels, 5, 7)
    assert len(images) == 6
    assert batch.flags.c_contiguous
    assert type(batch) is np.ndarray
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, expected[indices])


@pytest.mark.parametrize("layout", STORED)
def test_what_is_read_is_the_callers_own(layout: str) -> None:
    stored = np.zeros((3, 1, 4, 4), np.uint8)  # one channel: the layouts NCHW and NHWC can look alike to numpy
    images = ArrayImages(stored.transpose(STORED[layout]), layout=layout)
    images.read(all_of(images))[:] = 255
    assert not stored.any()


def test_array_images_read_nothing() -> None:
    images = ArrayImages(random_images(0, 3, 5, 6, 3), layout="NHWC")
    assert images.read(np.array([], np.int64)).shape == (0, 3, 5, 6)


@pytest.mark.parametrize("indices", [[-1], [0, 3], [[0]], [0.0]])
def test_wrong_indices_are_refused(indices: list[object]) -> None:
    three = ArrayImages(random_images(0, 3, 1, 2, 2))
    for images in (
        three,
        take(three, np.arange(3)),
        ConcatImages([three]),
        FileImages(["a", "b", "c"], size=2),
    ):
        with pytest.raises(IndexError, match="indices"):
            images.read(np.array(indices))
    with pytest.raises(IndexError, match="indices"):
        take(three, np.array(indices))


@pytest.mark.parametrize(
    ("array", "layout", "message"),
    [
        (np.zeros((2, 3, 4, 4), np.float32), "NCHW", "float32 are not legal: give uint8"),
        (np.zeros((3, 4, 4), np.uint8), "NCHW", r"\(3, 4, 4\) and type uint8 are not legal"),
        (
            np.zeros((2, 3, 4, 4), np.uint8),
            "CHWN",
            "layout='CHWN' is not legal: choose one of NCHW, NHWC, NCWH",
        ),
    ],
)
def test_wrong_arrays_are_refused(array: NDArray[np.uint8], layout: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ArrayImages(array, layout=layout)


def test_a_memory_map_is_pickled_as_its_file(tmp_path: Path) -> None:
    stored = random_images(1, 50, 3, 16, 16)
    (tmp_path / "images.bin").write_bytes(b"head" + stored.tobytes())
    mapped = np.memmap(tmp_path / "images.bin", np.uint8, mode="r", offset=4, shape=stored.shape)
    images = ArrayImages(mapped, layout="NCWH")
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    received = pickle.loads(sent)  # noqa: S301
    np.testing.assert_array_equal(received.read(np.array([7])), stored[[7]].transpose(0, 1, 3, 2))


def test_part_of_a_memory_map_is_pickled_with_its_pixels(tmp_path: Path) -> None:
    stored = random_images(1, 5, 3, 4, 4)
    (tmp_path / "images.bin").write_bytes(stored.tobytes())
    mapped = np.memmap(tmp_path / "images.bin", np.uint8, mode="r", shape=stored.shape)
    received = pickle.loads(pickle.dumps(ArrayImages(mapped[2:])))  # noqa: S301
    np.testing.assert_array_equal(received.read(np.array([0])), stored[[2]])


def test_concat_reads_across_parts_in_the_order_asked_for() -> None:
    arrays = [random_images(seed, count, 3, 4, 4) for seed, count in enumerate((3, 0, 2, 5))]
    images = ConcatImages([ArrayImages(array) for array in arrays])
    indices = np.array([9, 0, 3, 2, 4, 3, 5])
    np.testing.assert_array_equal(images.read(indices), np.concatenate(arrays)[indices])
    assert (len(images), images.shape) == (10, (3, 4, 4))


def test_concat_refuses_different_shapes_and_nothing() -> None:
    parts = [ArrayImages(random_images(0, 1, channels, 4, 4)) for channels in (1, 3)]
    with pytest.raises(UserError, match=r"\(1, 4, 4\), \(3, 4, 4\)\] cannot be put together"):
        ConcatImages(parts)
    with pytest.raises(UserError, match="cannot be put together"):
        ConcatImages([])


def test_take_of_take_reads_the_same_and_does_not_nest() -> None:
    stored = random_images(2, 20, 1, 3, 3)
    images = ArrayImages(stored)
    outer, inner = np.array([5, 3, 19, 3, 0]), np.array([4, 2, 2])
    nested = take(take(images, outer), inner)
    np.testing.assert_array_equal(nested.read(np.array([1, 0])), stored[outer[inner]][[1, 0]])
    assert nested._images is images
    assert len(nested) == 3


def test_a_subset_keeps_its_indices_when_the_callers_array_changes() -> None:
    stored = random_images(2, 4, 1, 3, 3)
    indices = np.array([3])
    subset = SubsetImages(ArrayImages(stored), indices)
    indices[0] = 0
    np.testing.assert_array_equal(subset.read(np.array([0])), stored[[3]])


@pytest.mark.parametrize("size", [16, 17, 40])
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (40, 40), (23, 57), (61, 20), (17, 41), (16, 19), (19, 16), (5, 9)]
)
def test_file_images_agree_with_pillow_and_torchvision(tmp_path: Path, height: int, width: int, size: int) -> None:
    image = Image.fromarray(random_images(height * width, height, width, 3))
    image.save(tmp_path / "image.png")
    transform = Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])
    batch = FileImages([tmp_path / "image.png"], size=size).read(np.array([0]))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), np.asarray(transform(image)))


def test_an_image_of_the_right_size_is_read_unchanged(tmp_path: Path) -> None:
    stored = random_images(3, 24, 24, 3)
    Image.fromarray(stored).save(tmp_path / "image.bmp")
    batch = FileImages([tmp_path / "image.bmp"], size=24).read(np.array([0]))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), stored)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image = Image.fromarray(random_images(4, 12, 12, 3)).convert(mode)
    image.save(path)
    expected = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(12, 12, channels)
    batch = FileImages([path], size=12, channels=channels).read(np.array([0]))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), expected)


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(random_images(5, 12, 12, 3)).quantize(8)
    image.save(tmp_path / "image.png", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = FileImages([tmp_path / "image.png"], size=12).read(np.array([0]))
    np.testing.assert_array_equal(batch[0].transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_file_images_read_in_the_order_asked_for(tmp_path: Path) -> None:
    stored = random_images(6, 4, 8, 8)
    for number, image in enumerate(stored):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    images = FileImages([str(tmp_path / f"{number}.png") for number in range(4)], size=8, channels=1)
    indices = np.array([2, 0, 2])
    np.testing.assert_array_equal(images.read(indices)[:, 0], stored[indices])
    assert images.shape == (1, 8, 8)


def write_not_an_image(path: Path) -> None:
    path.write_text("hello")


def write_cut_off(path: Path) -> None:
    Image.fromarray(random_images(0, 64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def write_broken_chunk(path: Path) -> None:
    Image.fromarray(random_images(0, 64, 64, 3)).save(path)
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))


def write_16_bit(path: Path) -> None:
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(path)


@pytest.mark.parametrize(
    "write", [write_not_an_image, write_cut_off, write_broken_chunk, write_16_bit, lambda path: None]
)
def test_unreadable_images_are_named(tmp_path: Path, write: object) -> None:
    assert callable(write)
    write(tmp_path / "bad.png")
    with pytest.raises(UserError, match=r"cannot read the image .*bad\.png: \S") as error:
        FileImages([tmp_path / "bad.png"], size=8).read(np.array([0]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_wrong_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"image_size=.* is not legal"):
        FileImages([], size=size)


@pytest.mark.parametrize("channels", [0, 2, 4, True, "3"])
def test_wrong_channels_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=r"channels=.* is not legal: choose 1 \(grey\) or 3 \(RGB\)"):
        FileImages([], size=8, channels=channels)
