"""A prediction of the command, an evaluation and an exported file are right about the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from tests.predict.conftest import TinyRun
from tests.predict.test_predict import rows_of

from layermatch import Predictor
from layermatch.evaluate import evaluate


def test_three_ways_to_the_same_accuracy(tiny_run: TinyRun, command: Callable[..., int]) -> None:
    """On every picture of the test set, the odd ones too; their classes are the names of their folders."""
    given = (f"ckpt_path={tiny_run.run_dir}", "device=cpu")
    assert command("predict", *given, f"input={tiny_run.test}", "output=labels.csv", "probabilities=true") == 0
    assert command("export", given[0], "output=model.onnx") == 0
    rows = rows_of("labels.csv")
    classes = [Path(row["path"]).parts[0] for row in rows]
    assert len(set(classes)) == 3
    right = [row["label"] == name for row, name in zip(rows, classes, strict=True)]
    assert 0 < sum(right) < len(right)  # else other faults would give the same

    assert evaluate(tiny_run.run_dir)["accuracy_ema"] == np.float32(sum(right) / len(right))

    predictor = Predictor.load(tiny_run.run_dir)
    images = np.stack([np.asarray(predictor.prepare(tiny_run.test / row["path"])) for row in rows])
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    found = [predictor.class_names[number] for number in probabilities.argmax(axis=1)]
    assert [label == name for label, name in zip(found, classes, strict=True)] == right
    said = np.array([[row[f"probability:{name}"] for name in predictor.class_names] for row in rows], np.float32)
    np.testing.assert_allclose(probabilities, said, atol=1e-4)

    # As a run with trainer.precision=auto does on a machine with bf16, and how the page says to compute as the file.
    predictor = Predictor.load(tiny_run.run_dir, device="cpu")
    predictor.precision = "bf16-mixed"
    rounded = predictor(torch.from_numpy(images)).probabilities.numpy()
    assert 1e-4 < np.abs(rounded - probabilities).max() < 0.05
    predictor.precision = "32-true"
    np.testing.assert_allclose(predictor(torch.from_numpy(images)).probabilities, probabilities, atol=1e-4)
