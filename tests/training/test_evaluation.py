"""The accuracies of an evaluation: over all images, and as a mean over the classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layermatch.results import _result_rows
from layermatch.training import Evaluation


def predictions(seed: int, *, sizes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    logits = torch.randn(len(label), len(sizes), generator=generator)
    logits[torch.arange(len(label)), label] += 2.0 / (1 + label)  # the first class is told best
    return logits, label


def by_hand(logits: torch.Tensor, label: torch.Tensor) -> tuple[float, float]:
    right = (logits.argmax(dim=1) == label).numpy()
    return float(right.mean()), float(np.mean([right[label.numpy() == k].mean() for k in label.unique().tolist()]))


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("sizes", [(40, 10, 5), (20, 20, 20)])
def test_both_accuracies_of_each_evaluation(split: str, sizes: tuple[int, ...]) -> None:
    evaluation = Evaluation(len(sizes))
    for seed in (0, 1):  # the second one has nothing of the first
        for place, weights in enumerate(("live", "ema")):
            logits, label = predictions(10 * seed + place, sizes=sizes)
            for part in (slice(None, 17), slice(17, None)):
                evaluation.see(split, weights, logits[part], label[part])
        values = evaluation.conclude(split, in_training=False)
        for place, suffix in enumerate(("", "_ema")):
            micro, macro = by_hand(*predictions(10 * seed + place, sizes=sizes))
            assert values[f"{split}/accuracy{suffix}"] == pytest.approx(micro)
            assert evaluation.macro[split][f"macro_accuracy{suffix}"] == pytest.approx(macro)
            assert (abs(micro - macro) < 1e-9) == (len(set(sizes)) == 1)


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_has_nothing_of_one_that_was_interrupted(split: str) -> None:
    evaluation = Evaluation(3)
    right = torch.eye(3).repeat(4, 1)
    for weights in ("live", "ema"):
        evaluation.see(split, weights, -right, right.argmax(dim=1))
    evaluation.start(split)
    for weights in ("live", "ema"):
        evaluation.see(split, weights, right, right.argmax(dim=1))
    assert evaluation.conclude(split, in_training=False) == {f"{split}/accuracy": 1.0, f"{split}/accuracy_ema": 1.0}
    assert set(evaluation.macro[split].values()) == {1.0}


@pytest.mark.parametrize(("macro", "is_shown"), [(0.5, False), (0.4, True)])
def test_the_table_shows_the_mean_of_the_classes_where_it_says_something(macro: float, is_shown: bool) -> None:
    accuracy = {"accuracy": 0.5, "accuracy_ema": 0.5, "macro_accuracy": macro, "macro_accuracy_ema": macro}
    results = {
        "algorithm": "fixmatch", "num_labels": 40, "seed": 1, "val": None, "pseudo_labels": None, "seconds": 1.0,
        "steps": 2, "test": accuracy | {"selection": "last step"},
    }  # fmt: skip
    rows = _result_rows(results)
    assert ("test, mean of classes" in rows) == is_shown
    if is_shown:
        assert rows["test, mean of classes"] == "EMA weights 40.00%, live weights 40.00%"
