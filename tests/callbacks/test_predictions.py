"""The table of predictions is what the averaged weights give, and its worst mistakes are the worst."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layermatch.callbacks import PredictionTable, TestPredictions

Make = Callable[..., Any]


def test_each_test_image_once_in_order(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data(eval_batch_size=50)
    algorithm = make_algorithm(data, ema_decay=0.9)
    predictions = TestPredictions()
    trainer = train(algorithm, data, tmp_path, max_steps=5, callbacks=[predictions])
    assert predictions.table is None
    for _ in range(2):  # a second test does not add to the first
        trainer.test(algorithm, datamodule=data, verbose=False)
    table = predictions.table
    images = data.normalise(torch.from_numpy(data.test.images.read(np.arange(len(data.test)))))
    with torch.no_grad():
        probs = algorithm.ema.network(images).logits.softmax(dim=1)
    assert table.indices.tolist() == list(range(360))
    assert table.label.tolist() == data.test.labels.tolist()
    assert table.prediction.tolist() == probs.argmax(dim=1).tolist()
    torch.testing.assert_close(table.confidence, probs.max(dim=1).values, rtol=1e-4, atol=1e-5)
    accuracy = (table.prediction == table.label).double().mean().item()
    assert accuracy == pytest.approx(algorithm.latest["test/accuracy_ema"], abs=1e-6)


def test_the_file_and_the_worst_mistakes(tmp_path: Path) -> None:
    label = torch.tensor([0, 1, 2, 1, 0, 2])
    prediction = torch.tensor([0, 2, 2, 0, 1, 2])
    confidence = torch.tensor([0.99, 0.5, 0.9, 0.8, 0.123456789, 1.0])
    table = PredictionTable(torch.arange(6), label, prediction, confidence)
    table.write_csv(tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "label", "prediction", "confidence"]
    assert [int(row["index"]) for row in rows] == list(range(6))
    assert [int(row["label"]) for row in rows] == label.tolist()
    assert [int(row["prediction"]) for row in rows] == prediction.tolist()
    assert rows[4]["confidence"] == "0.123457"
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert table.worst_mistakes(2).indices.tolist() == [3, 1]
    assert table.worst_mistakes(10).indices.tolist() == [3, 1, 4]
    assert len(table._replace(prediction=label).worst_mistakes(10).indices) == 0


def test_each_row_has_its_file(tmp_path: Path) -> None:
    """Names with commas, quotes and line breaks come back as they are, bytes that are no text as escapes."""
    files = ["test/cat/0.png", 'test/cat/a, "b".png', "test/dog/line\nbreak.png", "test/dog/\udcff.png"]
    order = torch.tensor([0, 1, 2, 3])
    table = PredictionTable(order, order % 2, order % 2, torch.ones(4))
    table.write_csv(tmp_path / "predictions.csv", files=files)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "label", "prediction", "confidence", "path"]
    assert [row["path"] for row in rows] == [*files[:-1], "test/dog/\\xff.png"]
