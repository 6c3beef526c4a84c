"""Stages of a run: where they begin, and what the network says of the pool there, whatever keeps the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import digits_data, fit, small_module
from tests.data import stand_ins
from torch import Tensor

from layermatch.data import SemiSupervisedData
from layermatch.data.batch import Batch, Views
from layermatch.data.sources import Folder
from layermatch.errors import UserError
from layermatch.functional import supervised_loss
from layermatch.methods import Method
from layermatch.networks import wrn_small
from layermatch.parts import Losses, Stage, Step, Term
from layermatch.parts.stages import check_stages, rate_at, stage_at
from layermatch.training import SemiSupervisedModule, problem_of


class Staged(Method):
    """Learns from labels, and predicts the pool where its second and third stage begin."""

    views = Views(unlabelled={"weak": "weak"})

    def __init__(self, *starts: float) -> None:
        super().__init__()
        self.stages = (Stage(), *(Stage(start=start, rate=0.5) for start in starts))
        self.begun: list[int] = []
        self.seen: list[int] = []
        self.pool: Tensor | None = None
        self.noise: list[Tensor] = []

    def begin_stage(self, stage: int, predict: Callable[[], Tensor]) -> None:
        self.begun.append(stage)
        if stage:
            self.pool = predict()

    def losses(self, batch: Batch, step: Step) -> Losses:
        self.seen.append(self.stage_of(step))
        self.noise.append(torch.rand(2))
        loss = supervised_loss(step.network(batch.labelled.views["weak"]).logits, batch.labelled.label)
        return Losses(supervised=Term(loss + 0 * batch.unlabelled.views["weak"].mean()))


def expected_pool(module: SemiSupervisedModule, data: SemiSupervisedData) -> Tensor:
    """The logits of all images of the pool in one batch, in evaluation mode."""
    images = torch.from_numpy(data.unlabelled.images.read(np.arange(len(data.unlabelled))))
    with torch.no_grad():
        return module.network.eval()(data.normalise(images)).logits


# ------------------------------------------------------------------------------------------------------- stage and step


@pytest.mark.parametrize("starts", [(0.25, 0.5), (0.3, 0.6), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0)])
def test_the_stage_of_a_step_is_the_last_that_has_started(starts: tuple[float, float]) -> None:
    stages = (Stage(), *(Stage(start=start) for start in starts))
    for number in range(11):
        of_step = [i for i, stage in enumerate(stages) if stage.start * 10 <= number + 1e-9 and stage.start < 1]
        assert stage_at(stages, number / 10) == of_step[-1]


def test_a_rate_is_constant_or_falls_by_a_cosine() -> None:
    stages = (Stage(rate=2.0, cosine=0.5), Stage(start=0.4, rate=0.1), Stage(start=0.8, cosine=1.0))
    assert rate_at(stages, 0.0) == 2.0
    assert rate_at(stages, 0.2) == pytest.approx(1 + np.cos(np.pi / 4))
    assert rate_at(stages, 0.4) == rate_at(stages, 0.79) == 0.1
    assert rate_at(stages, 0.9) == pytest.approx(0.5)
    assert rate_at(stages, 1.0) == pytest.approx(0.0)
    assert rate_at((Stage(),), 0.7) == 1.0


@pytest.mark.parametrize("starts", [(), (0.1,), (0.0, 0.5, 0.4), (0.0, 1.1)])
def test_stages_that_do_not_follow_each_other_are_refused(starts: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="do not follow each other"):
        check_stages([Stage(start=start) for start in starts])


def test_the_module_refuses_them(make_data: Callable[..., SemiSupervisedData]) -> None:
    with pytest.raises(UserError, match="do not follow each other"):
        small_module(make_data(), Staged(0.5, 0.25))


# ------------------------------------------------------------------------------------------------- beginning of a stage


def test_a_stage_begins_once_before_its_first_step(tmp_path: Path) -> None:
    data, method = digits_data(), Staged(0.25, 0.25, 0.6)
    module = small_module(data, method, accumulate=2)
    fit(module, data, tmp_path, max_steps=5)
    # Of two that start together, the first has no step.
    assert method.begun == [0, 2, 3]
    assert method.seen == [0] * 4 + [2] * 2 + [3] * 4


def test_a_step_that_is_not_applied_begins_its_stage_once(tmp_path: Path) -> None:
    class Poisoned(SemiSupervisedModule):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            if batch_idx == 2:
                batch.labelled.views["weak"][:] = float("nan")
            super().training_step(batch, batch_idx)

    data, method = digits_data(), Staged(0.5)
    module = small_module(data, method, kind=Poisoned)
    fit(module, data, tmp_path, max_steps=4)
    assert module.guard.num_rejected == 1
    assert method.begun == [0, 1]
    assert method.seen == [0, 0, 1, 1, 1]


def test_random_numbers_of_a_step_do_not_depend_on_a_stage_that_begins(tmp_path: Path) -> None:
    data = digits_data()
    staged, plain = Staged(0.5), Staged()
    for method in (staged, plain):
        fit(small_module(data, method), data, tmp_path, max_steps=4)
    assert staged.begun == [0, 1]
    assert all(torch.equal(a, b) for a, b in zip(staged.noise, plain.noise, strict=True))


# ------------------------------------------------------------------------------------------------ the whole pool


def predicted(module: SemiSupervisedModule, data: SemiSupervisedData, folder: Path) -> Tensor:
    """The pool as predicted at step 0 by a stage that starts there."""
    method = module.method
    assert isinstance(method, Staged)
    fit(module, data, folder, max_steps=1)
    assert method.begun == [1]
    assert method.pool is not None
    return method.pool


def test_the_pool_is_predicted_in_order_by_the_network_in_evaluation_mode(tmp_path: Path) -> None:
    data = digits_data(eval_batch_size=100)
    expected = expected_pool(small_module(data, Staged(0.0)), data)
    module = small_module(data, Staged(0.0))
    found = predicted(module, data, tmp_path)
    torch.testing.assert_close(found, expected)
    assert len(found) == len(data.unlabelled) == 1387
    assert (found - found.roll(1, dims=0)).abs().max() > 0.1  # images differ
    # Its batch statistics are of the batch of the step alone, so it is in training mode again.
    assert module.network.training
    norms = [m for m in module.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


@pytest.mark.parametrize("storage", ["ram", "disk", "lazy", "device"])
def test_the_pool_is_predicted_wherever_images_are_kept(storage: str, tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    stand_ins.write_folder(
        root, layout="labeled", classes=("cat", "dog"), per_class=10, num_unlabelled=15, test_per_class=2, size=12
    )
    data = SemiSupervisedData(
        Folder(root=root, image_size=8), num_labels=8, num_val=4, batch_size=4, mu=2, eval_batch_size=6, seed=0,
        mean=(0.5,) * 3, std=(0.25,) * 3, storage=storage, cache_dir=tmp_path / "cache", num_workers=1,
    )  # fmt: skip
    data.setup()

    def module() -> SemiSupervisedModule:
        torch.manual_seed(0)
        network, method = wrn_small(), Staged(0.0)
        made = SemiSupervisedModule(network, method)
        made.prepare(problem_of(data, network, method, max_steps=1))
        return made

    expected = expected_pool(module(), data)
    torch.testing.assert_close(predicted(module(), data, tmp_path), expected)
    assert len(expected) == 31


def test_modes_that_were_set_by_hand_stay(tmp_path: Path) -> None:
    data = digits_data()
    module = small_module(data, Staged(0.0))
    norms = [m for m in module.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    predicted(module, data, tmp_path)
    assert module.network.training
    assert not any(norm.training for norm in norms)


def test_a_method_knows_which_images_of_the_pool_are_labelled(make_data: Callable[..., Any]) -> None:
    data = make_data()
    problem = problem_of(data, wrn_small(in_channels=1), Staged(), max_steps=1)
    assert problem.pool_labels is not None
    rows = torch.nonzero(problem.pool_labels >= 0)[:, 0]
    assert len(rows) == 40
    pool, labelled = data.unlabelled.images.read(rows.numpy()), data.labelled.images.read(np.arange(40))
    by_image = {image.tobytes(): int(label) for image, label in zip(labelled, data.labelled.labels, strict=True)}
    assert [by_image[image.tobytes()] for image in pool] == problem.pool_labels[rows].tolist()
