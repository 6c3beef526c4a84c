"""Small real parts that the tests are made of: digits, a small network, a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tests.processes import end_those_left
from tests.shortcuts import blank, compose_once
from tests.tables import (
    cell,
    fault,
    kills,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_pyfunc_call,
    pytest_terminal_summary,
)

from layermatch.augment import StrongView, WeakView
from layermatch.data import SemiSupervisedData
from layermatch.data.sources import Digits
from layermatch.functional import constant
from layermatch.layerwise import LayerwiseRule, Uniform
from layermatch.methods import Method, PseudoLabelling, Supervised
from layermatch.networks import wrn_small
from layermatch.policies import FixedThreshold, Policy
from layermatch.predictor import open_teacher
from layermatch.trainer import make_trainer
from layermatch.training import SemiSupervisedModule, problem_of

# What this names is found by pytest here.
__all__ = [
    "cell", "fault", "kills", "pytest_addoption", "pytest_collection_modifyitems",
    "pytest_pyfunc_call", "pytest_terminal_summary",
]  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        compose_once(patch.setattr)
        yield


@pytest.fixture(autouse=True)
def _blank_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs draw their pictures only where a test looks at these."""
    with nullcontext() if request.node.get_closest_marker("pictures") else blank():
        yield


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
    policy: Policy | None = None,
    threshold: float = 0.2,
    **options: Any,
) -> SemiSupervisedModule:
    """The FixMatch family on a small network; the low threshold lets pseudo-labels count from the first step on."""
    of_method = {name: options.pop(name) for name in ("forward", "weak_share", "skip_masked") if name in options}
    method = PseudoLabelling(policy=policy or FixedThreshold(threshold=threshold), rule=rule or Uniform(), **of_method)
    return small_module(data, method, **options)


def small_module(
    data: SemiSupervisedData,
    method: Method,
    *,
    kind: type[SemiSupervisedModule] = SemiSupervisedModule,
    lr: float = 0.03,
    seed: int = 0,
    **options: Any,
) -> SemiSupervisedModule:
    """Any method on a small network, ready for the data."""
    torch.manual_seed(seed)
    network = wrn_small(in_channels=1)
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    module = kind(
        network,
        method,
        **({"optimizer": optimizer, "schedule": constant, "open_teacher": open_teacher} | options),
    )
    module.prepare(problem_of(data, network, method, max_steps=100))
    return module


def small_supervised(data: SemiSupervisedData, **options: Any) -> SemiSupervisedModule:
    """The supervised baseline on a small network."""
    return small_module(data, Supervised(), **options)


def fit(
    algorithm: SemiSupervisedModule,
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
def make_algorithm() -> Callable[..., SemiSupervisedModule]:
    return small_algorithm


@pytest.fixture
def make_supervised() -> Callable[..., SemiSupervisedModule]:
    return small_supervised


@pytest.fixture
def train() -> Callable[..., Trainer]:
    return fit
