"""R2-D2 against numbers of the authors' code, its table, its stages, and that a run which stops anywhere goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import oracle
from tests.conftest import digits_data, fit, small_module
from tests.given import batch_of, network_of, problem_of, step_of
from tests.oracle import tensor
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import label_divergence, prediction_entropy
from layermatch.layerwise import Uniform
from layermatch.methods import R2D2
from layermatch.networks import Network
from layermatch.parts import LabelTable, fixed_logits
from layermatch.training import SemiSupervisedModule

ORACLE = oracle.read("r2d2")
#: What the method's option is called in the oracle.
VARIANTS = {"kl_reverse": "authors/kl_reverse", "kl": "authors/kl", "mse": "authors/mse"}
START = ORACLE["inputs"]
K = START["K"]


def pool_labels() -> Tensor:
    labels = torch.full((START["n_total"],), -1)
    labels[START["labelled_idx"]] = torch.tensor(START["labelled_y"])
    return labels


def method_of(divergence: str) -> R2D2:
    """In its second stage from step 1 to step 8 of 9."""
    return R2D2(
        rule=Uniform(), divergence=divergence, supervised=1 / 9, decipher=7 / 9, reprediction=0.0,
        label_rate=START["label_lr"], class_weight=START["class_weight"], entropy_weight=START["entropy_weight"],
    )  # fmt: skip


def prepared(divergence: str) -> tuple[R2D2, Network]:
    method, network = method_of(divergence), network_of(K, nn.Flatten())
    method.prepare(network, problem_of(K, num_unlabelled=START["n_total"], max_steps=9, pool_labels=pool_labels()))
    method.double()
    return method, network


def recorded_batch(inputs: dict[str, Any]) -> tuple[Batch, Tensor]:
    """The batch of a step, and its images, which are the logits: unlabelled ones, then labelled ones."""
    idx, images = torch.tensor(inputs["idx"]), tensor(inputs["logits"]).requires_grad_()
    cut = round(START["unlabelled_ratio"] * START["batch"])
    label, views = pool_labels()[idx[cut:]], {"weak": images[:cut]}
    return batch_of(images[cut:], label, views, indices=idx[cut:], pool_indices=idx[:cut]), images


@pytest.mark.oracle
@pytest.mark.parametrize("divergence", VARIANTS)
def test_every_step_is_that_of_the_authors_code(
    divergence: str, record_property: Callable[[str, object], None]
) -> None:
    method, network = prepared(divergence)
    unlabelled = torch.tensor(START["unlabelled_idx"])
    start = torch.zeros(START["n_total"], K, dtype=torch.float64)
    start[unlabelled] = tensor(START["label_logits_init_unlabelled"])
    method.begin_stage(1, lambda: start)
    torch.testing.assert_close(method.table.logits, tensor(START["initial_state"]["label_logits"]), rtol=0, atol=0)
    worst = 0.0
    for number, recorded in enumerate(ORACLE["steps"]):
        expected = recorded["outputs"][VARIANTS[divergence]]
        batch, images = recorded_batch(recorded["inputs"])
        rows = method.table.logits[torch.tensor(recorded["inputs"]["idx"])]
        step = step_of(network, 1 + number, 9)
        losses = method.losses(batch, step)
        method.after_step(step)
        method.table.after_step(step)
        found = {
            "loss": losses.total,
            "class_loss": 0.1 * label_divergence(images, rows, kind=divergence).mean(),
            "ent_loss": 0.03 * prediction_entropy(images).mean(),
            "state_label_logits_unlabelled_of_batch": method.table.logits[batch.unlabelled.indices],
        }
        if "grad_logits" in expected:
            (found["grad_logits"],) = torch.autograd.grad(losses.total, images)
        for name, value in found.items():
            wanted = tensor(expected[name])
            worst = max(worst, float(((value.detach() - wanted).abs() / wanted.abs().clamp(min=1)).max()))
            torch.testing.assert_close(value.detach(), wanted, rtol=1e-7, atol=1e-7, msg=f"step {number}: {name}")
    record_property("worst", worst)
    if divergence == "kl_reverse":
        final = tensor(ORACLE["outputs"][VARIANTS[divergence]]["final_label_logits"])
        torch.testing.assert_close(method.table.logits, final, rtol=1e-7, atol=1e-7)


# --------------------------------------------------------------------------------------------------------------- table


def test_a_table_moves_by_the_mean_of_all_batches_of_a_step() -> None:
    """As two ranks, or two accumulated batches, of half the images: each divides by its own number."""
    generator = torch.Generator().manual_seed(0)
    labels, gradient = torch.full((6,), -1), torch.randn(4, 3, generator=generator)
    indices = torch.tensor([5, 0, 2, 0])  # one of them twice
    whole, parts = (LabelTable(labels, num_classes=3, rate=7.0) for _ in range(2))
    whole.see(indices, gradient / 4)
    whole.after_step(step_of(network_of(K)))
    parts.see(indices[:2], gradient[:2] / 2)
    parts.see(indices[2:], gradient[2:] / 2)
    parts.after_step(step_of(network_of(K), batches=2))
    torch.testing.assert_close(whole.logits, parts.logits)
    expected = np.zeros((6, 3))
    for row, of_row in zip(indices.tolist(), gradient.numpy(), strict=True):
        expected[row] -= 7.0 * of_row / 4
    np.testing.assert_allclose(whole.logits.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_rows_of_labelled_images_never_move() -> None:
    table = LabelTable(torch.tensor([-1, 2, 0]), num_classes=3, rate=1.0)
    table.assign(torch.ones(3, 3))
    table.see(torch.tensor([0, 1, 2]), torch.ones(3, 3))
    table.after_step(step_of(network_of(K)))
    assert table.logits.tolist() == [[0, 0, 0], [0, 0, 10], [10, 0, 0]]
    assert torch.equal(fixed_logits(torch.tensor([2, 0]), 3), table.logits[1:])


def test_a_step_that_is_not_applied_leaves_the_table() -> None:
    table = LabelTable(torch.tensor([-1, -1]), num_classes=3, rate=1.0)
    table.see(torch.tensor([0]), torch.full((1, 3), float("nan")))
    table.discard_step()
    table.after_step(step_of(network_of(K)))
    assert not table.logits.any()


# ------------------------------------------------------------------------------------------------------------- options


def test_stages_follow_each_other() -> None:
    method = R2D2(rule=Uniform(), supervised=0.2, decipher=0.3, reprediction=0.5, reprediction_rates=[1.0, 0.5])
    assert [stage.start for stage in method.stages] == pytest.approx([0.0, 0.2, 0.5, 0.75, 1.0])
    assert [stage.rate for stage in method.stages] == pytest.approx([5 / 3, 1.0, 1.0, 0.5, 1 / 12])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supervised": 2}, "supervised=2"),
        ({"supervised": 0.5, "decipher": 0.6}, "take 1.53 of the run"),
        ({"reprediction_rates": "poison"}, "reprediction_rates='poison'"),
        ({"reprediction_rates": []}, r"reprediction_rates=\[\]"),
        ({"reprediction_rates": [1.0, -1]}, "reprediction_rates=-1"),
        ({"divergence": "js"}, "divergence='js'"),
        ({"label_rate": -1}, "label_rate=-1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        R2D2(rule=Uniform(), **options)


# -------------------------------------------------------------------------------------------------------------- stages


def small_r2d2(data: Any, **options: Any) -> SemiSupervisedModule:
    """Stages of two steps in eight: labelled images, labels, one round, fine-tuning."""
    method = R2D2(
        rule=Uniform(), supervised=0.25, decipher=0.25, reprediction=0.25, reprediction_rates=[0.5], label_rate=100.0
    )
    return small_module(data, method, **options)


class Seen(SemiSupervisedModule):
    """Notes what the table and the learning rate are at each step."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if not hasattr(self, "rates"):
            self.rates, self.begun, self.predicted = [], [], []
        rate, begun = self._learning_rate(), self.stage.number
        super().training_step(batch, batch_idx)
        self.rates.append(rate)
        if self.stage.number != begun:
            self.begun.append((self.global_step - 1, self.stage.number))

    def predict_pool(self) -> Tensor:
        self.predicted.append((self.global_step, super().predict_pool()))
        return self.predicted[-1][1]


def test_each_stage_begins_before_its_first_step_with_its_own_learning_rate(tmp_path: Path) -> None:
    data = digits_data()
    module = small_r2d2(data, kind=Seen)
    fit(module, data, tmp_path, max_steps=8)
    assert module.begun == [(0, 0), (2, 1), (4, 2), (6, 3)]
    assert [number for number, _ in module.predicted] == [2, 4, 6]
    supervised = 0.03 * 5 / 3 * np.array([1, (1 + np.cos(np.pi * 6 / 7 / 2)) / 2])
    finetune = 0.03 / 12 * np.array([1, 0.5])
    assert module.rates == pytest.approx([*supervised, 0.03, 0.03, 0.015, 0.015, *finetune])
    # What is not in a batch of the last two steps stands as it was predicted; nothing moves in fine-tuning.
    fixed = module.method.table.is_fixed
    assert torch.equal(module.method.table.logits[~fixed], module.predicted[-1][1][~fixed])
    assert torch.equal(module.method.table.logits[fixed], fixed_logits(data.pool_labels[fixed], 10))
    assert fixed.sum() == 40


def test_a_run_that_stops_anywhere_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Also exactly where a stage ends: the next one begins once, in the run that goes on."""
    data = digits_data()
    whole = small_r2d2(data)
    fit(whole, data, tmp_path / "whole", max_steps=8)
    for stop in (2, 3, 6):

        class Stopping(SemiSupervisedModule):
            def on_train_batch_end(self, *_: Any) -> None:
                if self.global_step == stop:  # noqa: B023 -- used within this turn
                    self.trainer.should_stop = True

        first, second = small_r2d2(data, kind=Stopping), small_r2d2(data, seed=1)
        trainer = fit(first, data, tmp_path / "first", max_steps=8)
        assert trainer.global_step == stop
        trainer.save_checkpoint(tmp_path / "stop.ckpt")
        fit(second, data, tmp_path / "second", max_steps=8, ckpt_path=tmp_path / "stop.ckpt")
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), (stop, name)
