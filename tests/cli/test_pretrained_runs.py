"""A pretrained vision transformer through the commands: trained in part, resumed, evaluated, used, exported."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.data.stand_ins import write_folder

from layermatch import Predictor, UserError, evaluate, export, predict, run
from layermatch.networks.pretrained import BASE_DIGEST
from layermatch.rebuilding import as_trained
from layermatch.training.recipe import BASE_KEY

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.xdist_group("pretrained_runs")

SETTINGS = (
    "experiment=folder", "data.root=pictures", "trainer=cpu", "data.batch_size=4", "data.mu=2", "data.num_labels=6",
    "data.num_val=9", "data.eval_batch_size=7", "data.storage=lazy", "trainer.log_every=2", "trainer.max_steps=4",
    "optimizer=adamw", "optimizer.layer_decay=0.8", "logger=none", "checkpoint.every_n_steps=2", "eval_every=2",
    "model=timm", "model.name=test_vit", "model.weights=vit.safetensors", "data.image_size=32",
)  # fmt: skip


def call(folder: Path, module: Any, *words: str) -> int:
    """A command in a folder, in this process: its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module.__name__, *words])
        try:
            module.main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


@dataclass(frozen=True)
class Runs:
    """A folder with pictures, weights and the runs `lora` and `full`."""

    folder: Path

    def ckpt(self, run_dir: str, step: int = 4) -> Path:
        return self.folder / run_dir / "checkpoints" / f"step-{step:07d}.ckpt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("pretrained")
    write_folder(folder / "pictures", per_class=12, test_per_class=4)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "vit.safetensors")
    for tune in ("lora", "full"):
        assert call(folder, run, *SETTINGS, f"model.tune={tune}", f"run_dir={tune}") == 0
    return Runs(folder)


def state_of(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def test_a_checkpoint_of_a_part_is_small(runs: Runs) -> None:
    sizes = {tune: runs.ckpt(tune).stat().st_size for tune in ("lora", "full")}
    assert sizes["lora"] < sizes["full"] / 5
    saved = state_of(runs.ckpt("lora"))
    names = {name.removeprefix("network.") for name in saved["state_dict"] if name.startswith("network.")}
    assert BASE_DIGEST in names
    assert all(".adapter." in n or n.startswith("classifier") for n in names - {BASE_DIGEST, "extractor.pos_embed"})
    num_learning = sum(len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"])
    assert num_learning == len(saved["optimizer_states"][0]["state"]) == 6 * 2 * 2 + 2


def test_the_plan_says_what_learns_and_what_weights_want(runs: Runs) -> None:
    plan = json.loads((runs.folder / "lora" / "plan.json").read_text())
    assert plan["backbone"] == "timm's test_vit, images of 32x32 pixels"
    assert plan["weights"] == "vit.safetensors (model.weights=vit.safetensors)"
    assert plan["what learns"] == "LoRA of rank 4 on attention, and the heads"
    assert plan["normalised by"] == "mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5, of the weights"
    assert "learn" in plan["parameters, extractor"]
    assert "learn" not in plan["parameters, classifier"]


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_run_goes_on_to_the_bit(tune: str, runs: Runs) -> None:
    words = [f"model.tune={tune}", f"run_dir={tune}-again", f"ckpt_path={runs.ckpt(tune, 2)}"]
    assert call(runs.folder, run, *SETTINGS, *words) == 0
    whole, again = (state_of(runs.ckpt(name)) for name in (tune, f"{tune}-again"))
    assert all(torch.equal(whole["state_dict"][key], value) for key, value in again["state_dict"].items())
    for one, two in zip(*(s["optimizer_states"][0]["state"].values() for s in (whole, again)), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_evaluate_and_predict_say_what_the_run_did(tune: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.folder)
    results = json.loads((runs.folder / tune / "results.json").read_text())
    accuracy = evaluate.evaluate(runs.ckpt(tune))
    assert accuracy["accuracy_ema"] == pytest.approx(results["test"]["accuracy_ema"])
    output = f"{tune}.csv"
    assert call(runs.folder, predict, f"ckpt_path={tune}", "input=pictures/test", f"output={output}") == 0
    rows = list(csv.DictReader((runs.folder / output).open(newline="")))
    right = [row["label"] == Path(row["path"]).parts[0] for row in rows]
    assert sum(right) / len(right) == pytest.approx(accuracy["accuracy_ema"])


def test_a_whole_network_needs_no_weights_again(runs: Runs, tmp_path: Path) -> None:
    shutil.copy(runs.ckpt("full"), tmp_path / "alone.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # where there is no vit.safetensors
        predictor = Predictor.load(tmp_path / "alone.ckpt", device="cpu")
    assert (predictor.mean, predictor.image_size) == ((0.5, 0.5, 0.5), 32)


def test_frozen_weights_are_found_where_they_were_or_beside_the_checkpoint(runs: Runs, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = Predictor.load(runs.ckpt("lora"), device="cpu")(images).probabilities  # another working directory
    alone = tmp_path / "alone.ckpt"
    shutil.copy(runs.ckpt("lora"), alone)
    hidden = runs.folder / "vit.hidden"
    (runs.folder / "vit.safetensors").rename(hidden)
    try:
        message = r"alone.ckpt leaves out the frozen weights of timm's test_vit, .* put the file vit.safetensors beside"
        with pytest.raises(UserError, match=message):
            Predictor.load(alone, device="cpu")
        shutil.copy(hidden, tmp_path / "vit.safetensors")
        assert torch.equal(Predictor.load(alone, device="cpu")(images).probabilities, expected)
        torch.manual_seed(8)
        torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(UserError, match=r"vit\.safetensors cannot be read: "):
            Predictor.load(alone, device="cpu")
        from safetensors.torch import save_file

        save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
        with pytest.raises(UserError, match="does not hold the weights that the network was trained on"):
            Predictor.load(alone, device="cpu")
    finally:
        hidden.rename(runs.folder / "vit.safetensors")


def test_a_file_of_the_same_name_in_the_working_directory_is_not_taken(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    torch.manual_seed(8)
    save_file(timm.create_model("test_vit").state_dict(), folder / "vit.safetensors")
    monkeypatch.chdir(folder)
    assert Predictor.load(runs.ckpt("lora"), device="cpu").image_size == 32


def test_a_file_beside_the_checkpoint_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermatch.networks.pretrained.lite0.LITE0_PACKAGE", "no_such_package")
    gone = tmp_path / "gone" / "lite0.pth"
    checkpoint = {"state_dict": {f"network.{BASE_DIGEST}": 0}, BASE_KEY: {"path": str(gone), "network": "Lite0"}}
    target = "layermatch.networks.pretrained.efficientnet_lite0"
    settings = {"model": {"_target_": target, "weights": "package"}}
    with pytest.raises(UserError, match="leaves out the frozen weights of Lite0, which are not there any more: put"):
        as_trained(settings, checkpoint, path=tmp_path / "a.ckpt")
    (tmp_path / "lite0.pth").write_bytes(b"")
    found = as_trained(settings, checkpoint, path=tmp_path / "a.ckpt")["model"]["weights"]
    assert found == str(tmp_path / "lite0.pth")


@pytest.mark.slow
def test_an_export_holds_everything(runs: Runs) -> None:
    pytest.importorskip("onnxscript")
    from safetensors.torch import load_file

    # Its probabilities are compared with the predictor's by the command.
    for name, kind in (("one.onnx", "onnx"), ("two.pt2", "torch_export"), ("three.safetensors", "safetensors")):
        words = ["ckpt_path=lora", f"output={name}", f"format={kind}"]
        assert call(runs.folder, export, *words) == 0
    held = load_file(runs.folder / "three.safetensors")
    network = Predictor.load(runs.ckpt("lora"), device="cpu").network
    assert set(held) == {name for name, _ in network.named_parameters()}
    assert torch.equal(held["extractor.blocks.0.mlp.fc1.weight"], network.extractor.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.weights=gone.pth"],
            "error: model.weights=gone.pth: there is no such file: put weights of timm's test_vit",
        ),
        (["model.name=resnet"], "error: model.name='resnet' is not legal: timm has no such backbone: "),
        (["model.tune=half"], "error: model.tune='half' is not legal: choose one of full, frozen, "),
        (["model.lora.rank=0"], "error: model.lora.rank=0 is not legal: "),
        (["optimizer.layer_decay=2"], "error: optimizer.layer_decay=2 is not legal: "),
        (["data.image_size=40"], "error: model.name=test_vit does not read images of 3x40x40: "),
        (["model.weights=null", "data.mean=weights"], "error: data.mean=weights needs pretrained weights: "),
        (
            ["model=torchvision", "model.name=resnet0", "model.weights=hub"],
            "error: model.name='resnet0' is not legal: ",
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(runs.folder, run, *SETTINGS, *words, "run_dir=wrong") == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not (runs.folder / "wrong").exists()


def test_what_the_user_gives_counts_more_than_what_weights_want(runs: Runs) -> None:
    words = ["model.tune=frozen", "data.mean=[0.1,0.2,0.3]", "trainer.max_steps=1", "run_dir=given"]
    assert call(runs.folder, run, *SETTINGS, *words) == 0
    plan = json.loads((runs.folder / "given" / "plan.json").read_text())
    assert plan["normalised by"].startswith("mean 0.1 0.2 0.3, deviation 0.5 0.5 0.5, of data.mean and data.std")
    assert Predictor.load(runs.ckpt("given", 1), device="cpu").mean == (0.1, 0.2, 0.3)
