"""Each guard speaks in a small run where its trouble is real, once, and none does in a healthy one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from layermatch.callbacks import Guards
from layermatch.console import Reporter
from layermatch.data import SemiSupervisedData
from layermatch.layerwise import SeparateLosses, Uniform

Make = Callable[..., Any]


class Listener:
    """A reporter on a narrow terminal with a log, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self.screen, self.log = io.StringIO(), folder / "run.log"
        self.reporter = Reporter(self.log, terminal=Console(file=self.screen, width=60))

    @property
    def lines(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        assert lines == self.screen.getvalue().splitlines()  # one line each on both, however narrow
        assert all(line.startswith("warning: ") for line in lines)
        return lines


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def sent_to(listener: Listener, data: SemiSupervisedData, algorithm: Any, train: Make, **options: Any) -> list[str]:
    """What is said in 12 steps."""
    given = {"patience": 6, "most_per_second": 1e9} | options
    train_options = {name: given.pop(name) for name in ("max_steps", "eval_every") if name in given}
    guards = Guards(listener.reporter, **given)
    train(algorithm, data, listener.log.parent, **({"max_steps": 12} | train_options), callbacks=[guards])
    return listener.lines


def test_nothing_counts(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    data = make_data()
    (line,) = sent_to(listener, data, make_algorithm(data, threshold=1.0, log_every=2), train)
    assert "no pseudo-label has counted for 6 steps" in line
    assert "pseudo_labels.threshold" in line


def test_everything_counts(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    data = make_data()
    lines = sent_to(listener, data, make_algorithm(data, threshold=0.01, log_every=2), train, largest_share=0.999)
    (line,) = lines
    assert "every pseudo-label has counted for 6 steps" in line
    assert "% of them are right)" in line
    assert "pseudo_labels.threshold" in line


def test_one_class_takes_most(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    data = make_data()
    algorithm = make_algorithm(data, threshold=0.9, lr=1e-6, log_every=2)
    with torch.no_grad():
        algorithm.network.classifier.bias[3] = 6.0
    (line,) = [line for line in sent_to(listener, data, algorithm, train) if "of class" in line]
    assert "of the accepted pseudo-labels are of class '3', for 6 steps" in line
    assert "collapses" in line


def test_a_few_of_one_class_are_no_collapse(
    listener: Listener, make_data: Make, make_algorithm: Make, train: Make
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, threshold=0.9, lr=1e-6, log_every=2)
    with torch.no_grad():
        algorithm.network.classifier.bias[3] = 6.0
    lines = sent_to(listener, data, algorithm, train, few=1.01)
    assert [line for line in lines if "of class" in line] == []


def test_a_slow_average_parts_from_the_live_weights(
    listener: Listener, make_data: Make, make_algorithm: Make, train: Make
) -> None:
    data = make_data(batch_size=32)
    algorithm = make_algorithm(data, Uniform(lambda_u=0.0), ema_decay=0.9999, log_every=100)
    lines = sent_to(listener, data, algorithm, train, max_steps=60, eval_every=15)
    assert [live - ema > 0.2 for live, ema in algorithm.evaluations][-3:] == [True] * 3
    (line,) = lines
    assert "less accurate than the live ones in 3 evaluations" in line
    assert "algorithm.ema_decay" in line


def test_live_weights_that_jump_about(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    """A trained average, beside live weights that a huge learning rate throws away in each step."""
    data = make_data(batch_size=32)
    algorithm = make_algorithm(data, Uniform(lambda_u=0.0), ema_decay=0.9, log_every=100)
    train(algorithm, data, listener.log.parent, max_steps=60)
    algorithm.make_optimizer.keywords.update(lr=3.0)
    algorithm.ema.decay = 0.9999
    lines = sent_to(listener, data, algorithm, train, max_steps=3, eval_every=1)
    (line,) = lines
    assert "the live weights have been at least" in line
    assert "optimizer.lr" in line


def test_labels_are_repeated(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    data = make_data(num_labels=10, batch_size=32, mu=1)
    (line,) = sent_to(listener, data, make_algorithm(data, log_every=2), train, max_steps=4, most_per_second=0.1)
    assert "each step goes over all 10 labelled images 3.2 times" in line
    assert "data.batch_size" in line
    assert "data.num_labels" in line


def test_a_resumed_run_does_not_say_it_again(
    listener: Listener, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    options = {"threshold": 1.0, "log_every": 2}
    guards = Guards(listener.reporter, patience=6, most_per_second=1e9)
    trainer = train(make_algorithm(data, **options), data, tmp_path, max_steps=4, callbacks=[guards])
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    assert listener.lines == []
    # The 4 steps before the stop count: with 2 more there are 6.
    guards = Guards(listener.reporter, patience=6, most_per_second=1e9)
    algorithm = make_algorithm(data, **options)
    trainer = train(
        algorithm, data, tmp_path, max_steps=6, callbacks=[guards], ckpt_path=tmp_path / "early.ckpt"
    )  # fmt: skip
    trainer.save_checkpoint(tmp_path / "late.ckpt")
    assert len(listener.lines) == 1
    guards = Guards(listener.reporter, patience=6, most_per_second=1e9)
    algorithm = make_algorithm(data, **options)
    train(algorithm, data, tmp_path, max_steps=14, callbacks=[guards], ckpt_path=tmp_path / "late.ckpt")
    assert len(listener.lines) == 1


def test_a_healthy_run_warns_of_nothing(listener: Listener, make_data: Make, make_algorithm: Make, train: Make) -> None:
    """With the default of every limit, but less patience than a whole run has."""
    data = make_data(batch_size=16, mu=4)
    algorithm = make_algorithm(
        data, SeparateLosses(avg_clustering="ema_centroids"), threshold=0.8, ema_decay=0.9, log_every=10
    )
    guards = Guards(listener.reporter, patience=40)
    train(algorithm, data, listener.log.parent, max_steps=150, eval_every=30, callbacks=[guards])
    assert listener.lines == []
    assert algorithm.latest["val/accuracy_ema"] > 0.6
    assert 0 < algorithm.latest["pseudo_labels/mask_rate"] < 1
