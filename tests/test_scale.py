"""benchmarks/scale.py: its tables are of the figures that were measured, and of what parts really keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import scale

from layermatch.parts import Problem
from layermatch.parts.label_table import LabelTable
from layermatch.parts.output_average import OutputAverage
from layermatch.policies import CurriculumThresholds

ROOT = Path(__file__).parents[1]
FIGURES = scale.Measured(
    decode_per_s=100, image_bytes=20_000, index_bytes=30, index_load_ms=1, index_build_per_s=5000, order_epoch_ms=2,
    order_window_ms=1,
)  # fmt: skip
SETTING = scale.Setting(
    gpu_images_per_s=1000, batch=500, cores_per_gpu=20, parameters=1e7, exchange_gb_per_s=8, node_gb_per_s=1,
    storage_gb_per_s=2, storage_requests_per_s=1e6,
)  # fmt: skip


def state_of(name: str, images: int, classes: int) -> int:
    problem = Problem(classes, 8, 4, images, (3, 8, 8), 10, pool_labels=torch.full((images,), -1))
    if name == "flexmatch":
        part: torch.nn.Module = CurriculumThresholds()
        part.prepare(problem)
    elif name == "ema_outputs":
        part = OutputAverage()
        part.prepare(problem)
    else:
        part = LabelTable(problem.pool_labels, num_classes=classes, rate=1.0)
    return sum(buffer.numel() * buffer.element_size() for buffer in part.buffers())


@pytest.mark.parametrize("name", ["flexmatch", "ema_outputs", "algorithm=r2d2"])
def test_tables_take_what_the_parts_keep(name: str) -> None:
    fixed, of_class = scale.STATE[name]
    for classes in (3, 10):
        assert state_of(name, 70, classes) - state_of(name, 20, classes) == 50 * (fixed + of_class * classes)
    assert scale.state_bytes(replace(SETTING, images=1e6, classes=10), name) == 1e6 * (fixed + of_class * 10)
    assert scale.most_images(replace(SETTING, gpu_gb=1, classes=10), name) == 1e9 / (fixed + of_class * 10)


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
