"""benchmarks/scale.py: its tables are of the figures that were measured, and of what parts really keep."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from benchmarks import scale
from tests.methods.composed import composed, names
from torch import nn

from layermatch.build import build_method
from layermatch.layerwise.avg_clustering import READINGS
from layermatch.networks import Network
from layermatch.parts import Problem
from layermatch.settings import Settings

ROOT = Path(__file__).parents[1]
FIGURES = scale.Measured(
    decode_per_s=100, image_bytes=20_000, index_bytes=30, index_load_ms=1, index_build_per_s=5000, order_epoch_ms=2,
    order_window_ms=1,
)  # fmt: skip
SETTING = scale.Setting(
    gpu_images_per_s=1000, batch=500, cores_per_gpu=20, parameters=1e7, exchange_gb_per_s=8, node_gb_per_s=1,
    storage_gb_per_s=2, storage_requests_per_s=1e6,
)  # fmt: skip


#: Rows of the table -> what has that table, as command lines.
CHOICES = {
    "flexmatch, sequencematch, jepamatch": ["algorithm=flexmatch", "algorithm=sequencematch", "algorithm=jepamatch"],
    "algorithm=finessl": ["algorithm=finessl"],
    "algorithm=dho": ["algorithm=dho"],
    "algorithm=vpet": ["algorithm=vpet"],
    "algorithm=r2d2": ["algorithm=r2d2"],
    "ema_outputs": ["pseudo_labels=ema_outputs", "layerwise.avg_clustering=ema_outputs"],
}


@cache
def state_of(choice: str, images: int, classes: int) -> int:
    """The bytes that a method keeps, prepared for a pool."""
    words = (choice,) if choice.startswith("algorithm=") else ("algorithm=layermatch", choice)
    method = build_method(Settings.parse(composed(*words)))
    network = Network(nn.Identity(), num_features=8, num_classes=classes)
    problem = Problem(
        classes, 8, 4, images, (3, 8, 8), 10, label_counts=(1,) * classes, pool_labels=torch.full((images,), -1)
    )
    for name, head in method.heads(problem).items():
        network.add_head(name, head)
    method.prepare(network, problem)
    return sum(buffer.numel() * buffer.element_size() for buffer in method.buffers())


@pytest.mark.parametrize("name", CHOICES)
def test_tables_take_what_the_methods_keep(name: str) -> None:
    fixed, of_class = scale.STATE[name]
    for choice in CHOICES[name]:
        for classes in (3, 10):
            of_images = state_of(choice, 70, classes) - state_of(choice, 20, classes)
            assert of_images == 50 * (fixed + of_class * classes)
    assert scale.state_bytes(replace(SETTING, images=1e6, classes=10), name) == 1e6 * (fixed + of_class * 10)
    assert scale.most_images(replace(SETTING, gpu_gb=1, classes=10), name) == 1e9 / (fixed + of_class * 10)


@pytest.mark.slow
def test_the_table_of_what_grows_with_the_pool_has_every_method_and_policy() -> None:
    """What is in no row keeps nothing of an image."""
    named = {choice for choices in CHOICES.values() for choice in choices}
    assert set(scale.STATE) - set(CHOICES) == {"fixed, soft, freematch, softmatch, ..."}
    every = [f"algorithm={name}" for name in names("algorithm")]
    every += [f"pseudo_labels={name}" for name in names("pseudo_labels")]
    every += [f"layerwise.avg_clustering={name}" for name in READINGS]
    grows = {choice for choice in every if state_of(choice, 9000, 3) > state_of(choice, 8000, 3)}
    assert grows == named | {"pseudo_labels=flexmatch"}


def test_the_first_bottleneck_is_the_slowest_resource() -> None:
    # One GPU: 500 images in half a second. Ring of two: 4e7 bytes in 5 ms each way, half of it its own.
    assert scale.rates(SETTING, FIGURES, 1) == {
        "GPUs": 1000, "decoding": 2000, "network of a machine": 50_000, "storage, bytes": 100_000,
        "storage, requests": 1e6,
    }  # fmt: skip
    assert scale.rates(SETTING, FIGURES, 2)["GPUs"] == pytest.approx(2 * 500 / 0.505)
    assert scale.first_bottleneck(SETTING, FIGURES, 1) == ("GPUs", 1000)
    assert scale.first_bottleneck(replace(SETTING, cores_per_gpu=5), FIGURES, 4) == ("decoding", 2000)
    assert scale.first_bottleneck(SETTING, FIGURES, 1024) == ("storage, bytes", 100_000)
    assert scale.first_bottleneck(replace(SETTING, storage_requests_per_s=1e4), FIGURES, 64)[0] == "storage, requests"
    slow = replace(SETTING, node_gb_per_s=0.1)
    assert scale.first_bottleneck(slow, FIGURES, 8) == ("network of a machine", 5000)
    assert scale.rates(slow, FIGURES, 9)["network of a machine"] == 10_000  # a second machine


def test_the_page_has_the_tables_of_the_figures_that_were_measured(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main([])
    printed = capsys.readouterr().out
    scale.main([])
    assert capsys.readouterr().out == printed
    assert printed in (ROOT / "docs" / "scale.md").read_text()
    written = json.loads(scale.MEASURED.read_text())
    assert written["measured_by"].startswith("python benchmarks/stream.py ")
    assert "processors" in written["on"]


def test_arguments_change_what_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main(["--images", "1e6", "--classes", "10", "--gpu-images-per-s", "77"])
    text = capsys.readouterr().out
    assert "images=1M" in text
    assert "| 1 | 77 |" in text
    with pytest.raises(SystemExit):
        scale.main(["--images", "0"])
