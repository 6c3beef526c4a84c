"""Small real parts that the tests are made of: digits, a small network, a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tests.faults.runs import end_those_left
from tests.tables import (
    cell,
    fault,
    kills,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
)

from layermatch.algorithms import Algorithm, PseudoLabelling, Supervised
from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import Digits
from layermatch.layerwise import LayerwiseRule, Uniform
from layermatch.models import wrn_small
from layermatch.pseudo_labels import FixedThreshold
from layermatch.trainer import make_trainer

# What this names is found by pytest here.
__all__ = [
    "cell", "fault", "kills", "pytest_addoption", "pytest_collection_modifyitems", "pytest_terminal_summary",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Iterator[None]:
    """A test that fails leaves no run behind, which would take a core from the others."""
    yield
    end_those_left()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images go to a folder of the tests, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def digits_data(**options: Any) -> SemiSupervisedData:
    """Digits with small batches."""
    settings: dict[str, Any] = {"num_labels": 40, "num_val": 50, "batch_size": 8, "mu": 2, "seed": 0} | options
    data = SemiSupervisedData(
        Digits(), weak=WeakView(flip=False), strong=StrongView(flip=False), mean=(0.305,), std=(0.376,), **settings
    )
    data.setup()
    return data


def small_algorithm(
    data: SemiSupervisedData,
    rule: LayerwiseRule | None = None,
    *,
    kind: type[PseudoLabelling] = PseudoLabelling,
    threshold: float = 0.2,
    lr: float = 0.03,
    seed: int = 0,
    **options: Any,
) -> Algorithm:
    """An algorithm on a small network; the low threshold lets pseudo-labels count from the first step on."""
    torch.manual_seed(seed)
    rule = rule or Uniform()
    network = wrn_small(num_classes=10, in_channels=1, pseudo_head=rule.needs_pseudo_head)
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return kind(
        network,
        policy=FixedThreshold(threshold=threshold),
        rule=rule,
        num_unlabelled=len(data.unlabelled),
        optimizer=optimizer,
        **options,
    )


def small_supervised(seed: int = 0, **options: Any) -> Supervised:
    """The supervised baseline on a small network."""
    torch.manual_seed(seed)
    network = wrn_small(num_classes=10, in_channels=1)
    return Supervised(network, optimizer=partial(torch.optim.SGD, lr=0.03, momentum=0.9), **options)


def fit(
    algorithm: Algorithm,
    data: SemiSupervisedData,
    folder: Path,
    *,
    max_steps: int,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    """Train for some steps with the project's own trainer."""
    settings: dict[str, Any] = {
        "accelerator": "cpu", "precision": "32-true", "eval_every": 10_000, "accumulate": algorithm.accumulate,
        "callbacks": [], "loggers": [],
    }  # fmt: skip
    trainer = make_trainer(max_steps=max_steps, run_dir=folder, **(settings | options))
    trainer.fit(algorithm, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture
def make_data() -> Callable[..., SemiSupervisedData]:
    return digits_data


@pytest.fixture
def make_algorithm() -> Callable[..., Algorithm]:
    return small_algorithm


@pytest.fixture
def make_supervised() -> Callable[..., Supervised]:
    return small_supervised


@pytest.fixture
def train() -> Callable[..., Trainer]:
    return fit
