"""Feature clustering is measured on the images that it says, at every evaluation, and changes nothing."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layermatch.callbacks import FeatureClustering
from layermatch.callbacks.clustering import clustering_measures
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import ImageSet
from layermatch.loggers import MetricsCsv
from layermatch.training import SemiSupervisedModule

Make = Callable[..., Any]

NAMES = {f"features/{name}" for name in ("within", "between", "nc1", "nearest_centre_accuracy")}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def measured(algorithm: SemiSupervisedModule, data: SemiSupervisedData, images: ImageSet) -> dict[str, float]:
    """Straight from the images, with the network in evaluation mode."""
    algorithm.network.eval()
    with torch.no_grad():
        pixels = torch.from_numpy(images.images.read(np.arange(len(images))))
        features = algorithm.network(data.normalise(pixels)).features
    return clustering_measures(features, torch.from_numpy(images.labels))


def test_validation_images_in_the_line_of_their_accuracy(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data(eval_batch_size=20)
    algorithm = make_algorithm(data)
    callbacks = [FeatureClustering(eval_every=2)]
    train(algorithm, data, tmp_path, max_steps=4, eval_every=2, callbacks=callbacks, loggers=[MetricsCsv(tmp_path)])
    rows = [row for row in rows_of(tmp_path) if "val/accuracy" in row]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(set(row) >= NAMES for row in rows)
    expected = measured(algorithm, data, data.validation)
    assert {name: float(rows[-1][name]) for name in NAMES} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_labelled_images_where_there_are_no_others(
    accumulate: int, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data(num_val=0, eval_batch_size=15)
    algorithm = make_algorithm(data, accumulate=accumulate, log_every=100)
    callbacks = [FeatureClustering(eval_every=2)]
    train(algorithm, data, tmp_path, max_steps=5, eval_every=2, callbacks=callbacks, loggers=[MetricsCsv(tmp_path)])
    rows = rows_of(tmp_path)
    assert [(row["step"], set(row) - {"step"}) for row in rows] == [(step, NAMES) for step in ("2", "4", "5")]
    expected = measured(algorithm, data, data.labelled)
    assert {name: float(rows[-1][name]) for name in NAMES} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_val", [0, 50])
def test_training_is_the_same_to_the_bit(
    num_val: int, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    states = []
    for callbacks in ([], [FeatureClustering(eval_every=1)]):
        data = make_data(num_val=num_val)
        algorithm = make_algorithm(data)
        frozen = algorithm.network.extractor.groups[0].eval()  # a user may keep a part's statistics
        train(algorithm, data, tmp_path, max_steps=3, eval_every=1, callbacks=callbacks)
        assert not frozen.training
        assert algorithm.network.training
        states.append(algorithm.state_dict() | {"random": torch.get_rng_state()})
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []


def test_no_more_images_than_asked_for(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data(eval_batch_size=20)
    algorithm = make_algorithm(data)
    train(algorithm, data, tmp_path, max_steps=1, eval_every=1, callbacks=[FeatureClustering(eval_every=1)])
    whole = algorithm.latest["features/within"]
    algorithm = make_algorithm(data)
    callbacks = [FeatureClustering(eval_every=1, max_images=25)]
    train(algorithm, data, tmp_path, max_steps=1, eval_every=1, callbacks=callbacks)
    part = measured(algorithm, data, _first(data.validation, 25))["features/within"]
    assert algorithm.latest["features/within"] == pytest.approx(part, rel=1e-4)
    assert part != pytest.approx(whole, rel=1e-3)


def _first(images: ImageSet, count: int) -> ImageSet:
    """As evaluation reads them: three batches of every third image."""
    order = np.concatenate([np.arange(start, len(images), 3) for start in range(3)])[:count]
    pixels = torch.from_numpy(images.images.read(order)).numpy()

    class Taken:
        def __len__(self) -> int:
            return count

        def read(self, index: Any) -> Any:
            return pixels[index]

    return ImageSet(Taken(), images.labels[order])


def test_features_that_are_not_finite_give_nothing() -> None:
    features = torch.ones(4, 2)
    features[1, 1] = float("nan")
    assert clustering_measures(features, torch.tensor([0, 0, 1, 1])) == {}
