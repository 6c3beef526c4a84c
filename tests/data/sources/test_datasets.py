"""Data set objects of PyTorch as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from layermatch.data import SemiSupervisedData
from layermatch.data.sources import Datasets
from layermatch.errors import UserError

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(256, size=(9, 5, 6, 3), dtype=np.uint8)  # NHWC
LABELS = [0, 1, 2] * 3


def pairs(form: Any) -> list[tuple[Any, int]]:
    return [(form(image), label) for image, label in zip(PIXELS, LABELS, strict=True)]


@pytest.mark.parametrize("form", [Image.fromarray, np.asarray, lambda x: torch.from_numpy(x).permute(2, 0, 1)])
def test_every_form_of_an_image_gives_the_same_pixels(form: Any) -> None:
    content = Datasets(train=pairs(form), test=pairs(form)).load()
    assert content.classes == ("0", "1", "2")
    assert content.labelled.labels.tolist() == LABELS
    assert np.array_equal(content.labelled.images.read(np.arange(9)), PIXELS.transpose(0, 3, 1, 2))
    assert np.array_equal(content.test.images.read(np.arange(9)), PIXELS.transpose(0, 3, 1, 2))


def test_a_data_set_of_torchvision(tmp_path: Path) -> None:
    for number, (image, label) in enumerate(pairs(Image.fromarray)):
        folder = tmp_path / ("ant", "bee", "cat")[label]
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{number}.png")
    dataset = ImageFolder(str(tmp_path), transform=PILToTensor())
    data = SemiSupervisedData(Datasets(train=dataset, unlabelled=dataset), num_labels=3, batch_size=3, mu=2)
    data.setup()
    assert data.classes == ("ant", "bee", "cat")
    assert len(data.unlabelled) == 18
    assert data.batch_of_step(0).unlabelled.views["strong"].shape == (6, 3, 5, 6)
    expected = np.stack([image.numpy() for image, _ in dataset]) / 255
    assert data.mean == pytest.approx(expected.mean(axis=(0, 2, 3)))
    assert data.std == pytest.approx(expected.std(axis=(0, 2, 3)))


def test_unlabelled_images_need_no_class() -> None:
    content = Datasets(train=pairs(np.asarray), unlabelled=list(PIXELS)).load()
    assert content.unlabelled.labels.tolist() == [-1] * 9


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "train has no images"),
        ([(PIXELS[0].astype(np.float32), 0)], r"train\[0\] is ndarray of float32: give PIL images"),
        ([(torch.zeros(3, 4, 4), 0)], r"train\[0\] is a tensor of torch.float32"),
        ([(PIXELS[0], 0), (PIXELS[1][:4], 1)], r"train\[1\] has shape \(3, 4, 6\)"),
        ([(np.zeros((4, 4, 2), np.uint8), 0)], r"train\[0\] has shape \(2, 4, 4\)"),
        ([PIXELS[0]], r"train\[0\] has the class -1"),
    ],
)
def test_items_that_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Datasets(train=items).load()
