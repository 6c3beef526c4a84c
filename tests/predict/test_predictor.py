"""A predictor gives what an evaluation does, from the checkpoint alone."""

from __future__ import annotations

import copy
import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image
from tests.data.odd_images import HANDLED
from tests.predict.conftest import TinyRun
from torch import Tensor, nn

from layermatch import LayerMatch, Network, Predictor, SemiSupervisedData, UserError, create
from layermatch.build import build_parts, build_trainer
from layermatch.callbacks import TestPredictions
from layermatch.checkpoints import CHECKPOINT_KEY, read_checkpoint, stored_split
from layermatch.data.decoding import decode_image
from layermatch.data.sources import Digits
from layermatch.methods import Supervised
from layermatch.networks import Output, wrn_small
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule


def evaluated(tiny_run: TinyRun) -> tuple[Tensor, Tensor]:
    """Classes and confidences of the test set, as an evaluation computes them, unrounded."""
    saved = read_checkpoint(tiny_run.ckpt_path)
    settings = Settings.parse(saved[CHECKPOINT_KEY]["settings"])
    parts = build_parts(settings, split=stored_split(saved, tiny_run.ckpt_path))
    parts.algorithm.load_state_dict(saved["state_dict"])
    seen = TestPredictions()
    trainer = build_trainer(settings, run_dir=tiny_run.run_dir, callbacks=[seen], loggers=[])
    trainer.test(parts.algorithm, datamodule=parts.data, verbose=False)
    assert seen.table is not None
    return seen.table.prediction, seen.table.confidence


def test_the_numbers_of_an_evaluation_to_the_bit(tiny_run: TinyRun, tmp_path: Path) -> None:
    """Mixed formats, sizes, orientation, transparency and bits; the run's folder is not there."""
    rows = list(csv.DictReader((tiny_run.run_dir / "predictions.csv").open(newline="", encoding="utf-8")))
    classes, confidence = evaluated(tiny_run)
    moved = tmp_path / "alone.ckpt"
    shutil.copy(tiny_run.ckpt_path, moved)
    hidden = tiny_run.root.with_name("elsewhere")
    tiny_run.root.rename(hidden)
    try:
        predictor = Predictor.load(moved, device="cpu")
        paths = [hidden / row["path"] for row in rows]
        prediction = predictor(paths)
        # As the evaluation has them: every ninth image is a batch, and which row an image is may turn its last bit.
        num_batches = -(-len(rows) // predictor.batch_size)
        in_batches = [predictor(paths[start::num_batches]) for start in range(num_batches)]
    finally:
        hidden.rename(tiny_run.root)

    assert len(rows) == len(HANDLED) + 3 * 4
    assert predictor.class_names == ("cat", "dog", "fox")
    assert num_batches == 9
    for start, batch in enumerate(in_batches):
        assert torch.equal(batch.classes, classes[start::num_batches])
        assert torch.equal(batch.confidence, confidence[start::num_batches])
    assert torch.equal(prediction.classes, classes)
    torch.testing.assert_close(prediction.confidence, confidence, rtol=0, atol=2.5e-7)
    assert [str(int(number)) for number in classes] == [row["prediction"] for row in rows]
    assert [f"{number:.6f}" for number in confidence.tolist()] == [row["confidence"] for row in rows]
    assert prediction.features.shape == (len(rows), predictor.network.num_features)
    assert prediction.features.dtype == prediction.probabilities.dtype == torch.float32


def test_open_pictures_are_read_as_their_files_are(tiny_run: TinyRun) -> None:
    predictor = Predictor.load(tiny_run.run_dir, device="cpu")
    folder = tiny_run.test / "dog"
    opens = [name for name in HANDLED if not name.startswith(("long_", "damaged_")) and "long_text" not in name]
    for name in opens:  # the others Pillow itself refuses, or warns of
        with Image.open(folder / name) as picture:
            assert torch.equal(predictor.prepare(picture), predictor.prepare(folder / name)), name
    with Image.open(folder / "turned_6.png") as picture:
        picture.load()
        stored = np.asarray(picture)
        assert torch.equal(predictor.prepare(picture), predictor.prepare(folder / "turned_6.png"))
        assert np.array_equal(np.asarray(picture), stored)
    grey = Image.fromarray(np.arange(20 * 30, dtype=np.uint8).reshape(20, 30))
    assert predictor.prepare(grey).shape == (3, 16, 16)


def test_tensors_and_files_and_one_file_alone(tiny_run: TinyRun) -> None:
    predictor = Predictor.load(tiny_run.ckpt_path, device="cpu")
    files = sorted((tiny_run.test / "cat").iterdir())
    pixels = torch.stack([predictor.prepare(file) for file in files])
    assert np.array_equal(pixels[0].numpy(), decode_image(str(files[0]), size=16, channels=3))
    of_files = predictor(files)
    assert torch.equal(predictor(pixels).probabilities, of_files.probabilities)
    assert predictor(files[0]).probabilities.shape == (1, 3)
    assert predictor([]).probabilities.shape == (0, 3)
    for given, kind in ((np.zeros((2, 3, 16, 16)), "ndarray"), (None, "NoneType"), ([3], "int"), (b"a", "int")):
        with pytest.raises(
            UserError, match=rf"^images of type {kind} are not legal: give a uint8 tensor \(N, 3, 16, 16"
        ):
            predictor(given)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^images of type NoneType are not legal"):
        predictor.prepare(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"images of shape \(4, 3, 16, 16\) and type torch.float32 are not legal"):
        predictor(pixels.float())


def test_a_precision_of_its_own(tiny_run: TinyRun) -> None:
    files = sorted((tiny_run.test / "cat").iterdir())
    of_run, own = (Predictor.load(tiny_run.ckpt_path, device="cpu", precision=name) for name in (None, "bf16-mixed"))
    assert (of_run.precision, own.precision) == ("32-true", "bf16-mixed")
    exact, coarse = of_run(files).probabilities, own(files).probabilities
    assert not torch.equal(exact, coarse)
    torch.testing.assert_close(exact, coarse, rtol=0, atol=0.05)
    with pytest.raises(UserError, match="precision='half' is not legal: choose one of auto, 32-true, bf16-mixed"):
        Predictor.load(tiny_run.ckpt_path, precision="half")


def test_live_weights_are_others(tiny_run: TinyRun) -> None:
    files = sorted((tiny_run.test / "cat").iterdir())
    live, averaged = (Predictor.load(tiny_run.ckpt_path, device="cpu", weights=name) for name in ("live", "ema"))
    state = read_checkpoint(tiny_run.ckpt_path)["state_dict"]
    assert torch.equal(live.network.classifier.weight, state["network.classifier.weight"])
    assert torch.equal(averaged.network.classifier.weight, state["ema.network.classifier.weight"])
    assert not torch.equal(live(files).probabilities, averaged(files).probabilities)
    with pytest.raises(UserError, match="weights='best' is not legal: choose one of ema, live"):
        Predictor.load(tiny_run.ckpt_path, weights="best")
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=f"temperature={temperature} is not legal"):
            Predictor.load(tiny_run.ckpt_path, temperature=temperature)


@pytest.mark.parametrize("device", ["tpu!", "cuda:99"])
def test_a_device_that_is_not_there(tiny_run: TinyRun, device: str) -> None:
    with pytest.raises(UserError, match=f"device='?{device}'?"):
        Predictor.load(tiny_run.ckpt_path, device=device)


# ------------------------------------------------------------------------------------------- scripts of one's own


def extractor() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())


def own_run(module: SemiSupervisedModule, folder: Path, **options: Any) -> tuple[Path, SemiSupervisedData]:
    """A script's own run, with Lightning's own checkpoint."""
    data = SemiSupervisedData(Digits(), num_labels=10, batch_size=8, mu=2, **options)
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(folder / "own.ckpt")
    return folder / "own.ckpt", data


def test_a_network_of_a_script(tmp_path: Path) -> None:
    """The mean and the deviation were measured; they are in the file."""
    torch.manual_seed(0)
    module = LayerMatch(Network(extractor(), num_features=288), threshold=0.1)
    path, data = own_run(module, tmp_path)
    with pytest.raises(UserError, match=r"own.ckpt is of a network that a script made.*give network=NETWORK"):
        Predictor.load(path)

    assert data.test is not None
    images = torch.from_numpy(data.test.images.read(np.arange(50)))
    with torch.inference_mode():
        logits = module.method.outputs(module.ema.network.eval(), data.normalise(images)).logits
    for network in (extractor(), Network(extractor(), num_features=288)):
        before = copy.deepcopy(network.state_dict())
        predictor = Predictor.load(path, network=network, device="cpu")
        assert predictor.mean == data.mean
        assert torch.equal(predictor(images).probabilities, logits.softmax(dim=1))
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(UserError, match=r"own.ckpt does not fit the network: .* give network=NETWORK"):
        Predictor.load(path, network=wrn_small(in_channels=1))


def test_the_head_that_is_evaluated(tmp_path: Path) -> None:
    """A second head is, where the rule says so."""
    torch.manual_seed(0)
    given = ("layerwise.decoupled=true", "layerwise.evaluate_head=pseudo", "layerwise.avg_clustering=none")
    module = create("layermatch", wrn_small(in_channels=1), *given)
    path, data = own_run(module, tmp_path)
    assert module.method.evaluated_head == "pseudo_classifier"
    assert data.test is not None
    images = torch.from_numpy(data.test.images.read(np.arange(50)))
    with torch.inference_mode():
        logits = module.method.outputs(module.ema.network.eval(), data.normalise(images)).logits
    predictor = Predictor.load(path, network=wrn_small(in_channels=1), device="cpu")
    assert torch.equal(predictor(images).probabilities, logits.softmax(dim=1))


class Contrary(Supervised):
    """Evaluates what its classifier does not say, by a number that it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sign", torch.tensor(-1.0))

    def outputs(self, network: Network, images: Tensor) -> Output:
        out = super().outputs(network, images)
        return Output(out.features, {"classifier": out.logits * self.sign})


def test_a_method_that_computes_its_logits_in_a_way_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SemiSupervisedModule(wrn_small(in_channels=1), Contrary())
    path, data = own_run(module, tmp_path)
    with pytest.raises(UserError, match="logits in a way of its own: give method=METHOD"):
        Predictor.load(path, network=wrn_small(in_channels=1))
    method = Contrary()
    method.sign.fill_(7.0)  # the checkpoint's state is what counts
    predictor = Predictor.load(path, network=wrn_small(in_channels=1), method=method, device="cpu")
    assert data.test is not None
    images = torch.from_numpy(data.test.images.read(np.arange(20)))
    with torch.inference_mode():
        logits = -module.ema.network.eval()(data.normalise(images)).logits
    assert torch.equal(predictor(images).probabilities, logits.softmax(dim=1))


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda saved: saved.pop("recipe"), "does not say how its images are prepared"),
        (lambda saved: saved.pop("state_dict"), "is not a checkpoint of layermatch"),
        (lambda saved: saved["state_dict"].pop("ema.network.classifier.bias"), "does not fit the network: 1 of its"),
        (lambda saved: saved["layermatch"]["settings"]["model"].update(width=2), "does not fit the network"),
        (
            lambda saved: saved["layermatch"]["settings"]["model"].update(_target_="mine.Network"),
            "model._target_=mine.Network is not of",
        ),
    ],
)
def test_a_checkpoint_that_does_not_do(
    tiny_run: TinyRun, tmp_path: Path, damage: Callable[[dict[str, Any]], Any], line: str
) -> None:
    saved = read_checkpoint(tiny_run.ckpt_path)
    damage(saved)
    torch.save(saved, tmp_path / "damaged.ckpt")
    with pytest.raises(UserError) as refused:
        Predictor.load(tmp_path / "damaged.ckpt")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory with a checkpoint in checkpoints/"):
        Predictor.load(tmp_path)
