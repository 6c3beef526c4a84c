"""The stand-ins for other tests and commands: written by the script, read by the sources, learnable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import stand_ins

from layermatch.data.sources import CIFAR10, CIFAR100, STL10, SVHN, Folder, ImageNet100

READERS: dict[str, Any] = {
    "stl10": lambda root: STL10(root=root, verify=False),
    "cifar10": lambda root: CIFAR10(root=root, verify=False),
    "cifar100": lambda root: CIFAR100(root=root, verify=False),
    "svhn": lambda root: SVHN(root=root, verify=False),
    "folder": lambda root: Folder(root=root),
    "imagenet100": lambda root: ImageNet100(root=root, class_list="classes.txt", image_size=32),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_kind_is_written_and_read(tmp_path: Path, kind: str) -> None:
    stand_ins.main([kind, str(tmp_path / "data"), "--seed", "3"])
    data = READERS[kind](tmp_path / "data").load()
    assert data.test is not None
    assert len(np.unique(data.labelled.labels)) == len(data.classes)


def test_the_script_runs_on_its_own(tmp_path: Path) -> None:
    arguments = ["stl10", str(tmp_path), "--num-unlabelled", "7", "--num-labelled", "20"]
    subprocess.run([sys.executable, str(Path(stand_ins.__file__)), *arguments], check=True, timeout=300)
    data = STL10(root=tmp_path, verify=False).load()
    assert data.unlabelled is not None
    assert (len(data.labelled), len(data.unlabelled)) == (20, 7)


@pytest.mark.parametrize("kind", ["stl10", "cifar10", "svhn"])
def test_a_classifier_can_learn_from_them(tmp_path: Path, kind: str) -> None:
    stand_ins.WRITERS[kind](tmp_path)
    data = READERS[kind](tmp_path).load()
    train, test = (part.images.read(np.arange(len(part))) / 255 for part in (data.labelled, data.test))
    means = np.stack([train[data.labelled.labels == label].mean(0).ravel() for label in range(10)])
    distances = ((test.reshape(len(test), 1, -1) - means) ** 2).sum(2)
    assert (distances.argmin(1) == data.test.labels).mean() > 0.6


def test_the_same_seed_writes_the_same_images_and_another_does_not(tmp_path: Path) -> None:
    written = [stand_ins.write_cifar10(tmp_path / str(k), seed=seed)["train"][0] for k, seed in enumerate((1, 1, 2))]
    np.testing.assert_array_equal(written[0], written[1])
    assert (written[0] != written[2]).any()
