"""A temperature is fitted where the likelihood is greatest, kept beside the checkpoint, and used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.predict.conftest import TinyRun

from layermatch import Predictor, UserError
from layermatch.callbacks.validation_logits import ValidationLogits
from layermatch.checkpoints import CHECKPOINT_KEY, read_checkpoint
from layermatch.functional.calibration import fit_temperature, reliability

Command = Callable[..., int]


def overconfident(count: int, classes: int, *, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from softmax(logits), and logits ``factor`` times as large."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    label = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    return factor * logits, label


@pytest.mark.parametrize(("classes", "factor"), [(2, 3.0), (10, 3.0), (10, 0.4)])
def test_the_temperature_is_found_again(classes: int, factor: float) -> None:
    logits, label = overconfident(20_000, classes, factor=factor)
    temperature = fit_temperature(logits, label)
    assert temperature == pytest.approx(factor, rel=0.05)
    before, after = reliability(logits, label), reliability(logits, label, temperature=temperature)
    assert after.accuracy == before.accuracy
    assert after.nll < before.nll
    assert after.brier < before.brier
    assert after.ece < 0.02 < before.ece
    near = [reliability(logits, label, temperature=temperature * by).nll for by in (0.98, 1.02)]
    assert min(near) > after.nll


def test_reliability_written_out_once_more() -> None:
    logits, label = overconfident(500, 4, factor=2.0)
    probs = np.exp(logits.double().numpy())
    probs /= probs.sum(axis=1, keepdims=True)
    truth = np.eye(4)[label.numpy()]
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == label.numpy()
    ece = 0.0
    for low in np.arange(15) / 15:
        rows = (confidence > low) & (confidence <= low + 1 / 15)
        if rows.any():
            ece += rows.mean() * abs(right[rows].mean() - confidence[rows].mean())
    found = reliability(logits, label)
    assert found.accuracy == pytest.approx(right.mean())
    assert found.nll == pytest.approx(-np.log((probs * truth).sum(axis=1)).mean())
    assert found.brier == pytest.approx(((probs - truth) ** 2).sum(axis=1).mean())
    assert found.ece == pytest.approx(ece, abs=1e-5)


def test_no_temperature_fits() -> None:
    right = torch.eye(3).repeat(4, 1)
    with pytest.raises(UserError, match="no temperature fits 12 images: every image is right"):
        fit_temperature(right, right.argmax(dim=1))
    with pytest.raises(UserError, match="no temperature fits 12 images: the logits tell nothing"):
        fit_temperature(-right, right.argmax(dim=1))
    small = torch.tensor([[0.009, 0.0]] * 4)  # the best temperature is 0.0082, below the range
    with pytest.raises(UserError, match="no temperature fits 4 images: the logits are too close to one another"):
        fit_temperature(small, torch.tensor([0, 0, 0, 1]))


def test_a_calibrated_checkpoint(
    tiny_run: TinyRun, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = Path(shutil.copytree(tiny_run.run_dir, tmp_path / "run"))
    path = run_dir / "checkpoints" / tiny_run.ckpt_path.name
    before = path.read_bytes()
    files = sorted((tiny_run.test / "dog").iterdir())
    plain = Predictor.load(path, device="cpu")(files)
    assert command("calibrate", "ckpt_path=run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Reliability on 9 validation images" in said
    assert "warning: 9 validation images are few: a confidence of 90 % is known to ±20 points (95 %)" in said
    assert path.read_bytes() == before
    written = path.with_name("step-0000012.calibration.json")
    values = json.loads(written.read_text())["weights"]
    assert values["ema"]["after"]["nll"] < values["ema"]["before"]["nll"]
    predictor = Predictor.load(path, device="cpu")
    assert predictor.temperature == values["ema"]["temperature"]
    assert Predictor.load(path, device="cpu", weights="live").temperature == values["live"]["temperature"]
    calibrated = predictor(files)
    expected = (plain.probabilities.log() / predictor.temperature).softmax(dim=1)
    assert torch.allclose(calibrated.probabilities, expected, atol=1e-4)
    assert torch.equal(calibrated.classes, plain.classes)
    again = Predictor.load(path, device="cpu", temperature=1)(files)
    assert torch.equal(again.probabilities, plain.probabilities)

    assert command("calibrate", f"ckpt_path={path}") == 0  # its own file may be written again
    values["ema"]["temperature"] = -1
    written.write_text(json.dumps({"checkpoint": predictor.checkpoint.digest, "weights": values}))
    with pytest.raises(UserError, match="is no calibration"):
        Predictor.load(path)
    written.write_text(json.dumps({"checkpoint": "of another", "weights": values}))
    assert Predictor.load(path, device="cpu").temperature == 1


def test_weights_that_no_temperature_fits_are_left_out(
    tiny_run: TinyRun,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path(shutil.copy(tiny_run.ckpt_path, tmp_path / "alone.ckpt"))

    class Right(ValidationLogits):
        """Makes every image right."""

        right: tuple[str, ...] = ("ema",)

        def on_validation_batch_end(self, *arguments: Any, **named: Any) -> None:
            super().on_validation_batch_end(*arguments, **named)
            for weights in self.right:
                self.of[weights][-1] = 10 * torch.nn.functional.one_hot(self.label[-1], 3).float()

    monkeypatch.setattr("layermatch.calibrate.ValidationLogits", Right)
    assert command("calibrate", f"ckpt_path={path}") == 0
    (message,) = caplog.messages
    assert message.startswith("EMA weights: no temperature fits 9 images: every image is right")
    assert "live, calibrated" in capsys.readouterr().out
    assert Predictor.load(path, device="cpu").temperature == 1
    assert Predictor.load(path, device="cpu", weights="live").temperature != 1

    monkeypatch.setattr(Right, "right", ("ema", "live"))
    assert command("calibrate", f"ckpt_path={path}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: EMA weights: no temperature fits 9 images: every image is right")
    assert "; live weights: no temperature fits 9 images" in error
    assert error.count("\n") == 1


def test_a_run_without_validation_images(
    tiny_run: TinyRun, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = read_checkpoint(tiny_run.ckpt_path)
    split = saved[CHECKPOINT_KEY]["split"]
    for name in ("names", "contents"):
        split[name] = split[name][: len(split["labelled"])]
    split["validation"] = []
    saved[CHECKPOINT_KEY]["settings"]["data"]["num_val"] = 0
    torch.save(saved, "without.ckpt")
    assert command("calibrate", "ckpt_path=without.ckpt") == 2
    error = capsys.readouterr().err
    assert "its run had no validation images, which a temperature is fitted on: train with data.num_val" in error
    assert error.count("\n") == 1
