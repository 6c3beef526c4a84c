"""Images are read as they are stored: compared with what was written."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from layermatch.data.file_images import FileImages
from layermatch.data.images import ArrayImages, ConcatImages, Images, SubsetImages, take
from layermatch.errors import RunError, UserError

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


def test_a_file_that_is_deleted_or_replaced_is_read_on(tmp_path: Path) -> None:
    path, stored = tmp_path / "images.bin", random_images(3, 5, 3, 4, 4)
    path.write_bytes(stored.tobytes())
    images = ArrayImages(np.memmap(path, np.uint8, mode="r", shape=stored.shape))
    path.unlink()
    np.testing.assert_array_equal(images.read(all_of(images)), stored)
    path.write_bytes(bytes(stored.nbytes))
    np.testing.assert_array_equal(images.read(all_of(images)), stored)


def test_a_file_that_is_cut_off_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.bin"
    path.write_bytes(bytes(3 * 4 * 4 * 5))
    images = ArrayImages(np.memmap(path, np.uint8, mode="r", shape=(5, 3, 4, 4)))
    os.truncate(path, 3 * 4 * 4 * 4 + 1)
    assert images.read(np.array([3])).shape == (1, 3, 4, 4)
    with pytest.raises(RunError, match=f"^the file {path} cannot be read any more: it became shorter: put it back"):
        images.read(np.array([4]))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_a_file_is_closed_with_its_images(tmp_path: Path) -> None:
    path = tmp_path / "images.bin"
    path.write_bytes(bytes(16))
    images = ArrayImages(np.memmap(path, np.uint8, mode="r", shape=(1, 1, 4, 4)))
    images.read(np.array([0]))

    def open_files() -> list[str]:
        return [str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir()]

    assert str(path) in open_files()
    del images
    gc.collect()
    assert str(path) not in open_files()
