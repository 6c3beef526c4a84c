"""Sets of image files: in the order asked for, and with errors of the right kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layermatch.data.file_images import FileImages
from layermatch.errors import RunError, UserError


def write_greys(folder: Path, values: list[int]) -> list[Path]:
    paths = [folder / f"{value}.png" for value in values]
    for path, value in zip(paths, values, strict=True):
        Image.new("L", (8, 8), value).save(path)
    return paths


def test_file_images_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    images = FileImages(write_greys(tmp_path, [10, 20, 30]), size=8, channels=1)
    assert images.read(np.array([2, 0, 2]))[:, 0, 0, 0].tolist() == [30, 10, 30]
    assert images.shape == (1, 8, 8)


def test_an_unreadable_file_is_the_users_and_of_a_checked_one_the_runs(tmp_path: Path) -> None:
    paths = write_greys(tmp_path, [10, 20])
    images = FileImages(paths, size=8)
    paths[1].unlink()
    with pytest.raises(UserError, match=f"^cannot read the image {paths[1]}: No such file or directory$"):
        images.read(np.arange(2))
    checked = images.checked()
    assert (checked.paths, checked.shape) == (images.paths, images.shape)
    message = (
        f"^the image {paths[1]} cannot be read any more: No such file or directory: "
        "put it back and go on with ckpt_path=last$"
    )
    with pytest.raises(RunError, match=message):
        checked.read(np.arange(2))


def test_what_can_be_read_is_read_and_the_rest_explained(tmp_path: Path) -> None:
    paths = write_greys(tmp_path, [10, 20, 30])
    paths[1].write_bytes(b"")
    batch, errors = FileImages(paths, size=8, channels=1).read_or_explain(np.arange(3))
    assert batch[:, 0, 0, 0].tolist() == [10, 0, 30]
    assert [(error.path, error.reason) for error in errors] == [(str(paths[1]), "it is empty")]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "32"])
def test_wrong_sizes_are_refused(size: int) -> None:
    with pytest.raises(UserError, match=r"image_size=.* is not legal"):
        FileImages([], size=size)


@pytest.mark.parametrize("channels", [0, 2, 4, True, "3"])
def test_wrong_channels_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=r"channels=.* is not legal: choose 1 \(grey\) or 3 \(RGB\)"):
        FileImages([], size=8, channels=channels)
