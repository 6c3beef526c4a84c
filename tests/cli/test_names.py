"""Classes, folders and run directories may be called anything: names are text everywhere."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import cli, evaluate_cli, in_empty_folder

from layermatch.figures import read_metrics
from layermatch.report.__main__ import main as report
from layermatch.watch.__main__ import main as watch

__all__ = ["cli", "evaluate_cli", "in_empty_folder"]  # fixtures

pytestmark = pytest.mark.slow

#: Folder of a class -> the name of the class.
CLASSES = {
    os.fsdecode(b"caf\xe9"): "caf\\xe9", "$x_$": "$x_$", "[b] [i] :cat:": "[b] [i] :cat:", "a\u2028b": "a\u2028b",
    "猫" * 80: "猫" * 80, "_a": "_a", "a\nb, \"c\"": "a\nb, \"c\"", "🐈": "🐈", "x*": "x*",
}  # fmt: skip

SETTINGS = (
    "experiment=folder", "data.image_size=8", "model=wrn_small", "trainer=cpu", "trainer.precision=32-true",
    "trainer.max_steps=2", "trainer.log_every=1", "eval_every=1", f"data.num_labels={len(CLASSES)}",
    f"data.num_val={len(CLASSES)}", "data.batch_size=4", "data.mu=2", "data.storage=ram", "logger=tensorboard",
    "pseudo_labels.threshold=0.01",
)  # fmt: skip


def write_pictures(root: Path) -> None:
    colours = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 2)):
        for name in CLASSES:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = colours.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.pictures
def test_a_run_and_its_report_take_every_name(
    cli: Callable[..., None], in_empty_folder: Path, capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write_pictures(in_empty_folder / "Größe [1] $a$ 猫")
    run_dir = in_empty_folder / "[bold]out[red] :cat: $a$"
    cli(*SETTINGS, "data.root='Größe [1] $a$ 猫'", f"run_dir='{run_dir.name}'")
    names = sorted(CLASSES)
    classes = [CLASSES[name] for name in names]
    assert json.loads((run_dir / "results.json").read_text())["classes"] == classes
    columns = read_metrics(run_dir / "metrics.csv")
    for name in classes:
        assert columns[f"pseudo_labels/per_class_counts/{name}"][0].tolist() == [1, 2]
    with (run_dir / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(CLASSES)
    assert {path.stem for path in (run_dir / "figures").iterdir()} >= {"views", "confusion", "pseudo_labels"}
    shown, said = capfd.readouterr()
    assert f"run directory: {run_dir.name}" in shown.splitlines()
    assert f"run directory: {run_dir.name}" in (run_dir / "run.log").read_text(encoding="utf-8").splitlines()
    assert said == ""
    assert caplog.records == []
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
    report([str(run_dir), "--out", "report.html"])
    page = (in_empty_folder / "report.html").read_text(encoding="utf-8")
    assert "caf\\xe9" in page
    assert "$x_$" in page
    watch([str(run_dir), "--once"])
    assert "[b] [i] :cat:" in capfd.readouterr().out
