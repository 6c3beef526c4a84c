"""V-PET: its votes against loops, its loss against a restatement, its teachers, and where it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import digits_data, fit, small_module
from tests.given import batch_of, gradient, network_of, problem_of, step_of
from torch import Tensor, nn

from layermatch.data import SemiSupervisedData
from layermatch.errors import UserError
from layermatch.functional import target_of_votes, votes_of
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import VPET
from layermatch.networks import Network
from layermatch.training import SemiSupervisedModule


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("form", ["softmax", "mean"])
@pytest.mark.parametrize("votes", ["teachers", "passes"])
def test_votes_are_counted_as_by_a_loop(votes: str, form: str, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    # Whole numbers, so that many are equal: the first of the largest has the vote.
    said = torch.randint(0, 3, (4, 3, 20, num_classes), generator=generator).float()  # teachers, passes, images
    method = VPET(rule=Uniform(), teachers=["a"], votes=votes, target=form)
    counts = sum(method.votes_on(list(of_teacher)) for of_teacher in said)
    wanted = np.zeros((20, num_classes))
    for of_teacher in said.numpy():
        voters = [of_teacher.mean(axis=0)] if votes == "teachers" else of_teacher
        for voter in voters:
            for i, row in enumerate(voter):
                wanted[i, int(np.argmax(row))] += 1
    np.testing.assert_array_equal(counts.numpy(), wanted)
    target = softmax(wanted) if form == "softmax" else wanted / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(target_of_votes(counts, form=form).numpy(), target, rtol=1e-6)
    assert votes_of(said[0, 0]).sum(dim=1).eq(1).all()


@pytest.mark.parametrize("form", ["softmax", "mean"])
def test_value_and_gradient_are_those_of_the_equation(form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    classes, num = 4, 24
    network = network_of(classes)
    weights = {"weak_weight": 2.0, "strong_weight": 3.0, "supervised_weight": 0.25}
    method = VPET(rule=Uniform(lambda_u=0.5), teachers=["a"], target=form, **weights)
    method.prepare(network, problem_of(classes, num_unlabelled=num))
    method.double()
    counts = torch.randint(0, 3, (num, classes), generator=generator).double()
    counts[:, 0] += 1
    counts[0] = torch.tensor([4.0, 0, 0, 0])  # all agree
    method.target.copy_(target_of_votes(counts, form=form))
    views = {
        name: 2 * torch.randn(num, classes, dtype=torch.float64, generator=generator) for name in ("weak", "strong")
    }
    labelled = torch.randn(8, classes, dtype=torch.float64, generator=generator)
    for image in (*views.values(), labelled):
        image.requires_grad_()
    order = torch.randperm(num, generator=generator)
    label = torch.arange(8) % classes
    losses = method.losses(batch_of(labelled, label, views, pool_indices=order), step_of(network))
    target = (softmax(counts.numpy()) if form == "softmax" else (counts / counts.sum(1, keepdim=True)).numpy())[order]
    losses.total.backward()
    for name, weight in (("weak", 2.0), ("strong", 3.0)):
        q = softmax(views[name].detach().numpy())
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(target > 0, target * (np.log(target) - np.log(q)), 0)
        assert losses[name].value.item() == pytest.approx(terms.sum() / num, rel=1e-12)
        np.testing.assert_allclose(views[name].grad.numpy(), 0.5 * weight * (q - target) / num, rtol=1e-9, atol=1e-15)
    q = softmax(labelled.detach().numpy())
    wanted = 0.25 * (q - np.eye(classes)[label]) / 8
    np.testing.assert_allclose(labelled.grad.numpy(), wanted, rtol=1e-9, atol=1e-15)


def test_by_default_labels_have_no_part_in_the_student() -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(5, 4), num_features=4, num_classes=3).double()
    method = VPET(rule=Uniform(), teachers=["a"])
    method.prepare(network, problem_of(3, 4))
    method.target.normal_().softmax(dim=1)
    views = {name: torch.randn(24, 5).double() for name in ("weak", "strong")}
    losses = method.losses(batch_of(torch.randn(8, 5).double(), torch.arange(8) % 3, views), step_of(network))
    assert losses["supervised"].value > 0
    assert not gradient(losses.of("labels"), network, "classifier").any()
    assert gradient(losses.total, network, "classifier").any()


# ------------------------------------------------------------------------------------------------------ its own teacher


class Noting(VPET):
    """Notes what it looked at."""

    def begin_stage(self, stage: int, predict: Any) -> None:
        if stage == 1:
            self.network = predict.step.network.state_dict()
            self.network = {name: value.clone() for name, value in self.network.items()}
            self.seen = [self.own_logits(predict, number) for number in self.looks]
        super().begin_stage(stage, predict)


def module_of(data: SemiSupervisedData, **options: Any) -> SemiSupervisedModule:
    return small_module(data, Noting(rule=Uniform(), supervised=0.5, **options))


def test_without_teachers_the_network_votes_after_the_first_part(tmp_path: Path) -> None:
    data = digits_data()
    module = module_of(data, passes=3, votes="passes", target="mean")
    fit(module, data, tmp_path, max_steps=4)
    method = module.method
    assert len(method.seen) == 3
    assert not torch.equal(method.seen[0], method.seen[1])  # other views in each pass
    counts = sum(votes_of(logits) for logits in method.seen)
    torch.testing.assert_close(method.target, counts / 3, rtol=1e-6, atol=0)
    # What it said is what the network of that moment says of the views of the pass.
    live = module.network
    live.load_state_dict(method.network)
    pixels = torch.from_numpy(data.unlabelled.images.read(np.arange(len(data.unlabelled))))
    with torch.no_grad():
        weak = data.kinds["weak"](pixels, data.draws_of_pass(1))
        said = live.eval()(data.normalise(weak)).logits
    torch.testing.assert_close(method.seen[1], said, rtol=1e-4, atol=1e-4)


def test_with_no_passes_it_looks_at_the_images_as_they_are(tmp_path: Path) -> None:
    data = digits_data()
    module = module_of(data, passes=0)
    fit(module, data, tmp_path, max_steps=4)
    (said,) = module.method.seen
    torch.testing.assert_close(module.method.target, target_of_votes(votes_of(said), form="softmax"))


def test_draws_of_passes_differ_from_each_other_and_are_the_same_again() -> None:
    data = digits_data()
    data.setup()
    first, second = data.draws_of_pass(0), data.draws_of_pass(1)
    assert first.shape == (len(data.unlabelled), data.kinds["weak"].num_draws)
    assert torch.equal(first, data.draws_of_pass(0))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": SeparateLosses(avg_clustering="ema_centroids")},
            "avg_clustering=ema_centroids is not legal with VPET",
        ),
        ({"teachers": "runs/a"}, r"teachers='runs/a' is not legal: give a list"),
        ({"teachers": None}, "teachers=None"),
        ({"teachers": [3]}, "teachers=3"),
        ({"passes": -1}, "passes=-1"),
        ({"passes": 1.5}, "passes=1.5"),
        ({"votes": "all"}, "votes='all'"),
        ({"target": "hard"}, "target='hard'"),
        ({"weak_weight": -1}, "weak_weight=-1"),
        ({"strong_weight": -1}, "strong_weight=-1"),
        ({"supervised_weight": -1}, "supervised_weight=-1"),
        ({"supervised": 0}, "supervised=0"),
        ({"supervised": 1}, "supervised=1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VPET(**({"rule": Uniform()} | options))


def test_targets_in_bfloat16_logits_are_exact_enough() -> None:
    logits: Tensor = torch.tensor([[1.0, 3.0, 3.0]], dtype=torch.bfloat16)
    assert votes_of(logits).tolist() == [[0, 1, 0]]
