"""TensorBoard's event files: the numbers of metrics.csv, the pictures, the settings and the results."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.dashboards.commands import SMALL

from layermatch import run


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EventAccumulator:
    monkeypatch.chdir(tmp_path)
    arguments = ["run_dir=out", "logger=tensorboard", "trainer.max_steps=4", *SMALL]
    monkeypatch.setattr(sys, "argv", ["layermatch.run", *arguments])
    run.main()
    accumulator = EventAccumulator(str(tmp_path / "out" / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.pictures
def test_numbers_pictures_settings_and_results(events: EventAccumulator, tmp_path: Path) -> None:
    tags = events.Tags()
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    compared = 0
    for row in rows:
        for name, value in row.items():
            if name != "step" and value:
                logged = [event.value for event in events.Scalars(name) if event.step == int(row["step"])]
                assert pytest.approx(float(value), rel=1e-6) in logged, name
                compared += 1
    assert compared > 20

    assert [event.step for event in events.Images("panels/pseudo_labels")] == [3]
    figures = {f"figures/{path.stem}" for path in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"figures/views", "figures/confusion", "figures/curves"} <= figures
    assert set(tags["images"]) == figures | {"figures/per_class", "panels/pseudo_labels"}
    for name in tags["images"]:
        (event,) = events.Images(name)
        assert event.encoded_image_string.startswith(b"\x89PNG")
        assert min(event.width, event.height) > 100

    texts = {name: events.Tensors(f"{name}/text_summary")[0] for name in ("settings", "results")}
    assert b"threshold: 0.15" in texts["settings"].tensor_proto.string_val[0]
    assert b"| test.selection | last step |" in texts["results"].tensor_proto.string_val[0]
