"""Exported networks compute what ``evaluate`` computes, and say what they are."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tests.data.odd_images import REFUSED
from tests.predict.conftest import TinyRun

from layermatch import Predictor
from layermatch.errors import RunError
from layermatch.export import export
from layermatch.exporting import describe, formats, model_card

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def program(name: str) -> str:
    """One of the programs of the page, which is run as it stands there."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- The program for {name} begins. -->", f"<!-- The program for {name} ends. -->"
    return text.partition(begin)[2].partition(end)[0].strip().removeprefix("```python\n").removesuffix("```")


def is_plain(path: Path) -> bool:
    """Whether the programs make of a picture what an evaluation does."""
    return path.stem.isdecimal() or path.name in {"grey_16_bit.png", "rgb_16_bit.png", "rgba.png", "rgba.webp"}


@pytest.fixture(scope="module")
def exported(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny run in each format."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("a.onnx", "b.pt2", "c.safetensors"):
        made = export(tiny_run.run_dir, folder / name, hub_folder=folder / f"hub_{name[0]}")
        assert (made.difference is None) == (name[0] == "c")
        assert made.size == (folder / name).stat().st_size
    return folder


@pytest.mark.parametrize(
    ("name", "library", "closeness"), [("a.onnx", "onnxruntime", 1e-4), ("b.pt2", "PyTorch", 0.05)]
)
def test_the_program_of_the_page_predicts_what_an_evaluation_did(
    name: str, library: str, closeness: float, exported: Path, tiny_run: TinyRun, tmp_path: Path
) -> None:
    with (tiny_run.run_dir / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if is_plain(Path(row["path"]))]
    assert len(rows) == 16
    (tmp_path / "serve.py").write_text(program(library) + "\nassert 'layermatch' not in sys.modules\n")
    done = subprocess.run(
        [sys.executable, "serve.py", exported / name, *(tiny_run.root / row["path"] for row in rows)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    said = [line.split("\t") for line in done.stdout.splitlines()]
    classes = Predictor.load(tiny_run.run_dir).class_names
    if library == "onnxruntime":
        assert [label for _, label, _ in said] == [classes[int(row["prediction"])] for row in rows]
        REFUSED["floats.tif"][0](tmp_path / "floats.tif")
        refused = subprocess.run(
            [sys.executable, "serve.py", exported / name, "floats.tif"],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert (refused.returncode, refused.stderr) == (1, "floats.tif: save it with 8 bits a channel\n")
    found = [float(confidence) for _, _, confidence in said]
    np.testing.assert_allclose(found, [float(row["confidence"]) for row in rows], atol=closeness)


def test_any_number_of_images_is_a_batch(exported: Path, tiny_run: TinyRun) -> None:
    predictor = Predictor.load(tiny_run.run_dir)
    generator = torch.Generator().manual_seed(3)
    for count in (1, 5):
        images = torch.randint(0, 256, (count, *predictor.image_shape), dtype=torch.uint8, generator=generator)
        expected = predictor(images)
        for name in ("onnx", "torch_export"):
            compute = formats.FORMATS[name].compute
            assert compute is not None
            found = compute(exported / {"onnx": "a.onnx", "torch_export": "b.pt2"}[name], images)
            for ours, theirs in zip(expected, found, strict=True):
                torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_the_first_commands_of_the_page_do_not_collide() -> None:
    block = PAGE.read_text(encoding="utf-8").partition("```bash")[2].partition("```")[0]
    stems = re.findall(r"output=(\S+)\.\w+ ", block)
    assert len(stems) == len(set(stems)) == 3


def test_the_weights_alone_are_those_of_the_average(exported: Path, tiny_run: TinyRun) -> None:
    saved = torch.load(tiny_run.ckpt_path, weights_only=False)["state_dict"]
    found = load_file(exported / "c.safetensors")
    assert found
    for name, value in found.items():
        assert torch.equal(value, saved[f"ema.network.{name}"])


def test_the_description_says_what_a_program_has_to_know(exported: Path, tiny_run: TinyRun) -> None:
    said = json.loads((exported / "a.json").read_text())
    results = json.loads((tiny_run.run_dir / "results.json").read_text())
    assert said["classes"] == results["classes"]
    assert said["input"]["shape"] == ["N", 3, 16, 16]
    assert said["results"]["test_accuracy"] == results["test"]["accuracy_ema"]
    assert said["results"]["selection"] == "last step"
    assert said["checkpoint"]["step"] == 12
    assert "16 x 16" in said["input"]["made_of_a_file_by"][-1]


def test_the_hub_reads_the_card(exported: Path, tiny_run: TinyRun) -> None:
    folder = exported / "hub_a"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.onnx"]
    card = ModelCard.load(folder / "README.md")
    results = json.loads((tiny_run.run_dir / "results.json").read_text())
    assert card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(results["test"]["accuracy_ema"], abs=1e-4)
    for name in results["classes"]:
        assert f"- `{name}`" in card.text


def test_figures_are_of_the_weights_that_are_exported(tiny_run: TinyRun, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(tiny_run.run_dir, tmp_path / "run"))
    results = json.loads((run_dir / "results.json").read_text())
    results["test"] |= {"accuracy": 0.11, "accuracy_ema": 0.99}
    (run_dir / "results.json").write_text(json.dumps(results))
    export(run_dir, tmp_path / "live.pt2", weights="live")
    card = (tmp_path / "live.md").read_text()
    assert "Test accuracy, live weights: 11.00%" in card
    assert (ModelCard(card).data.eval_results or [])[0].metric_value == 0.11
    assert "EMA" not in card
    assert "99" not in str(json.loads((tmp_path / "live.json").read_text())["results"])

    shutil.copy(run_dir / "checkpoints" / tiny_run.ckpt_path.name, run_dir / "checkpoints" / "step-0000003.ckpt")
    export(run_dir / "checkpoints" / "step-0000003.ckpt", tmp_path / "other.pt2")
    said = json.loads((tmp_path / "other.json").read_text())["results"]
    assert said == {"steps": 12, "num_labels": 6}
    card = (tmp_path / "other.md").read_text()
    assert "not known: no results of these weights lie beside the checkpoint" in card
    assert "accuracy, " not in card
    assert ModelCard(card).data.eval_results is None


def test_weights_alone_say_what_is_left_to_do(exported: Path, tiny_run: TinyRun) -> None:
    said = json.loads((exported / "c.json").read_text())
    whole = json.loads((exported / "a.json").read_text())
    assert said["input"]["normalised_before"] == whole["input"]["normalised_inside"]
    assert "normalised_inside" not in said["input"]
    assert said["outputs"].keys() == {"logits", "features"}
    card = (exported / "c.md").read_text()
    assert "to be normalised before the network: x / 255, mean" in card
    assert "inside" not in card
    assert "to be resized" not in card

    predictor = Predictor.load(tiny_run.run_dir, device="cpu", temperature=1.25)
    predictor.network.resize = 48  # type: ignore[assignment] -- as pretrained networks have it
    alone, inside = (describe(predictor, weights_alone=is_so) for is_so in (True, False))
    assert alone["input"]["resized_before"] == [48, 48]
    assert "resized_before" not in inside["input"]
    card = model_card(alone, name="a", files={})
    assert "to be resized after that, before the network: to 48 x 48, bilinear" in card
    assert "calibrated: divide the logits by 1.25 before the softmax" in card
    assert "calibrated: by a temperature of 1.25" in model_card(inside, name="a", files={})


MISTAKES = {
    "no such ending": (
        ["output=model.txt"],
        "output=model.txt is not legal: give a file that ends with .onnx, .pt2",
    ),
    "another ending": (["format=onnx", "output=m.pt2"], "output=m.pt2 is not legal: give a file that ends with .onnx"),
    "no such format": (["format=tflite"], "format='tflite' is not legal: choose one of onnx, torch_export, safetens"),
    "there already": (["output=there.onnx"], "there.onnx is there already: give another name, or remove it"),
    "description there": (["output=taken.onnx"], "taken.json is there already"),
    "no folder": (["output=no/model.onnx"], "output=no/model.onnx: there is no folder no"),
    "nowhere to write": (["output=/proc/m9.onnx"], "output=/proc/m9.onnx: /proc cannot be written to: No such file"),
    "nowhere for the hub": (["hub_folder=no/hub"], "hub_folder=no/hub: no cannot be written to: No such file"),
    "folder there": (["hub_folder=hub"], "hub is there already"),
    "push what": (["push_to_hub=me/ants"], "push_to_hub=me/ants uploads a folder: give hub_folder=DIR too"),
    "weights": (["weights=best"], "weights='best' is not legal: choose one of ema, live"),
    "unknown": (["opset=17"], "opset"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    name: str,
    tiny_run: TinyRun,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments, line = MISTAKES[name]
    for file in ("there.onnx", "taken.json"):
        (tmp_path / file).write_text("mine")
    (tmp_path / "hub").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert command("export", f"ckpt_path={tiny_run.run_dir}", *arguments) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_what_it_wrote(
    tiny_run: TinyRun,
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("export", f"ckpt_path={tiny_run.run_dir}", "output=ants.pt2") == 0
    said = capsys.readouterr().out
    assert "ants.pt2" in said
    assert "probabilities differ by at most" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ants.json", "ants.md", "ants.pt2"]


def test_a_file_that_computes_something_else_is_not_left(
    tiny_run: TinyRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = formats.FORMATS["torch_export"].write

    def spoil(deployed: torch.nn.Module, description: dict[str, object], path: Path) -> None:
        write(deployed, description, path)  # type: ignore[arg-type]
        with torch.no_grad():
            deployed.scale.mul_(2)  # type: ignore[union-attr, operator]

    spoilt = formats.Format(".pt2", "", spoil, formats.FORMATS["torch_export"].compute)
    monkeypatch.setattr("layermatch.export.FORMATS", {"torch_export": spoilt})
    with pytest.raises(RunError, match=r"probabilities differ by .*: nothing was exported"):
        export(tiny_run.run_dir, tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []
