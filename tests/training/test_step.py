"""The manual-optimization step: its order, clipping, accumulation, gradients per layer group, and what it logs."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from layermatch.data import SemiSupervisedData
from layermatch.data.batch import Batch, Samples, Unlabelled, Views
from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.loggers import MetricsCsv
from layermatch.methods.pseudo_labelling import record_quality
from layermatch.parts import Step
from layermatch.trainer import make_trainer
from layermatch.training import SemiSupervisedModule

Make = Callable[..., Any]


class Recorder(SemiSupervisedModule):
    """Keeps the gradients that each optimizer step is made with, as they are before and after clipping."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gradients: list[dict[str, Tensor]] = []

    def apply_step(self, step: Step) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in self.network.named_parameters() if p.grad is not None})
        super().apply_step(step)


def step_of(algorithm: SemiSupervisedModule) -> Step:
    """A first step, outside of training."""
    return Step(algorithm.network, algorithm.ema.network, 0, 10, algorithm.lines.meter.add, algorithm.guard.watch)


def parameters_of(algorithm: SemiSupervisedModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.network.state_dict().items()}


def without_batch_norm(algorithm: SemiSupervisedModule) -> SemiSupervisedModule:
    """Leave BatchNorm's batch statistics out, so that samples do not depend on their batch."""
    for module in algorithm.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # Lightning leaves the mode that it finds
    return algorithm


RULES = {
    "uniform": Uniform,
    "ema_centroids": lambda: SeparateLosses(avg_clustering="ema_centroids"),
    "off": lambda: SeparateLosses(grad_relu="off", avg_clustering="ema_centroids"),
    "conflict": lambda: SeparateLosses(grad_relu="conflict", avg_clustering="ema_centroids"),
    "ema_outputs": lambda: SeparateLosses(avg_clustering="ema_outputs"),
    "ema_classifier": lambda: SeparateLosses(avg_clustering="ema_classifier"),
    "ema_teacher": lambda: SeparateLosses(avg_clustering="ema_teacher"),
    "none": lambda: SeparateLosses(avg_clustering="none"),
    "decoupled": lambda: SeparateLosses(decoupled=True, avg_clustering="ema_centroids"),
    "scaled": Uniform,
}
#: What a rule needs beside itself.
OPTIONS = {"scaled": {"gradient_scale": {"extractor.groups.0": 0.5, "classifier": 0.0}}}


@pytest.mark.parametrize("forward", ["split", "shared", "joint"])
@pytest.mark.parametrize("name", RULES)
def test_two_steps_of_every_rule_move_every_parameter(
    name: str, forward: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, RULES[name](), forward=forward, **OPTIONS.get(name, {}))
    before = parameters_of(algorithm)
    trainer = train(algorithm, data, tmp_path, max_steps=2)
    assert trainer.global_step == 2
    after = parameters_of(algorithm)
    still = [n for n in before if before[n].is_floating_point() and torch.equal(before[n], after[n])]
    assert not still
    assert all(value.isfinite().all() for value in after.values() if value.is_floating_point())


def test_two_steps_of_supervised_move_every_parameter(
    make_data: Make, make_supervised: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data(views=Views())
    algorithm = make_supervised(data)
    before = parameters_of(algorithm)
    train(algorithm, data, tmp_path, max_steps=2)
    after = parameters_of(algorithm)
    assert not [n for n in before if before[n].is_floating_point() and torch.equal(before[n], after[n])]


def test_layermatch_without_both_parts_is_fixmatch_to_the_bit(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    fixmatch = make_algorithm(data, Uniform())
    layermatch = make_algorithm(data, SeparateLosses(grad_relu="off", avg_clustering="none"))
    for algorithm in (fixmatch, layermatch):
        train(algorithm, data, tmp_path, max_steps=5)
    a, b = parameters_of(fixmatch), parameters_of(layermatch)
    assert all(torch.equal(a[name], b[name]) for name in a)
    with_grad_relu = make_algorithm(data, SeparateLosses(avg_clustering="none"))
    train(with_grad_relu, data, tmp_path, max_steps=5)
    assert not torch.equal(parameters_of(with_grad_relu)["classifier.weight"], a["classifier.weight"])


def gradients_of(rule: Any, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path, **options: Any) -> Any:
    data = make_data()
    algorithm = make_algorithm(data, rule, kind=Recorder, **options)
    train(algorithm, data, tmp_path, max_steps=1)
    return algorithm.gradients[0]


def test_gradient_scale_zero_on_the_classifier_is_grad_relu(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    parts = (make_data, make_algorithm, train, tmp_path)
    blocked = gradients_of(SeparateLosses(avg_clustering="none"), *parts)
    scaled = gradients_of(Uniform(), *parts, gradient_scale={"classifier": 0.0})
    for name, grad in blocked.items():
        torch.testing.assert_close(scaled[name], grad, rtol=1e-5, atol=2e-6)


def test_gradient_scale_scales_the_pseudo_label_gradient_alone(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    parts = (make_data, make_algorithm, train, tmp_path)
    supervised = gradients_of(Uniform(lambda_u=0.0), *parts)
    full = gradients_of(Uniform(), *parts)
    half = gradients_of(Uniform(), *parts, gradient_scale={"extractor.groups.1": 0.5})
    for name in full:
        scale = 0.5 if name.startswith("extractor.groups.1.") else 1.0
        expected = supervised[name] + scale * (full[name] - supervised[name])
        torch.testing.assert_close(half[name], expected, rtol=1e-4, atol=1e-5)


def test_conflict_keeps_the_components_that_agree(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    parts = (make_data, make_algorithm, train, tmp_path)
    supervised = gradients_of(SeparateLosses(avg_clustering="none", lambda_u=0.0), *parts)
    full = gradients_of(SeparateLosses(avg_clustering="none", grad_relu="off"), *parts)
    conflict = gradients_of(SeparateLosses(avg_clustering="none", grad_relu="conflict"), *parts)
    for name in full:
        pseudo = full[name] - supervised[name]
        if name.startswith("classifier."):
            pseudo = torch.where(pseudo.sign() * supervised[name].sign() > 0, pseudo, torch.zeros_like(pseudo))
        torch.testing.assert_close(conflict[name], supervised[name] + pseudo, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["uniform", "ema_centroids", "scaled", "conflict"])
def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    rule: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    whole_data, part_data = make_data(batch_size=8), make_data(batch_size=4)
    options = {"kind": Recorder, "threshold": 0.01} | OPTIONS.get(rule, {})
    whole = without_batch_norm(make_algorithm(whole_data, RULES[rule](), **options))
    parts = without_batch_norm(make_algorithm(part_data, RULES[rule](), accumulate=2, **options))
    for algorithm, data in ((whole, whole_data), (parts, part_data)):
        assert train(algorithm, data, tmp_path, max_steps=2).global_step == 2
    assert len(parts.gradients) == 2
    for name, grad in whole.gradients[0].items():
        if rule == "conflict" and name.startswith("classifier."):
            continue  # signs are compared batch by batch
        torch.testing.assert_close(parts.gradients[0][name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_clipping_bounds_the_norm_of_the_step(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    steps = {}
    for clip_norm in (None, 0.5, 1e9):
        data = make_data()
        algorithm = make_algorithm(data, kind=Recorder, clip_norm=clip_norm, lr=1.0)
        for group in (algorithm.make_optimizer.keywords,):
            group.update(momentum=0.0, nesterov=False, weight_decay=0.0)
        before = parameters_of(algorithm)
        train(algorithm, data, tmp_path, max_steps=1)
        after = parameters_of(algorithm)
        names = [name for name, _ in algorithm.network.named_parameters()]
        steps[clip_norm] = torch.cat([(before[n] - after[n]).flatten() for n in names])  # the gradient, as lr is 1
        norm = torch.cat([algorithm.gradients[0][n].flatten() for n in names]).norm()
        assert norm > 0.6  # else nothing would be clipped
    assert steps[0.5].norm() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(steps[1e9], steps[None])
    torch.testing.assert_close(steps[0.5] / steps[0.5].norm(), steps[None] / steps[None].norm(), rtol=1e-3, atol=1e-5)


def test_the_order_of_a_step(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, SeparateLosses(avg_clustering="ema_centroids"), clip_norm=1.0)
    order: list[str] = []

    def spy(owner: Any, method: str, name: str) -> None:
        original = getattr(owner, method)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            order.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, method, wrapper)

    spy(algorithm, "manual_backward", "backward")
    spy(torch.nn.utils, "clip_grad_norm_", "clip")
    spy(torch.optim.SGD, "step", "step")
    spy(algorithm.rate, "schedule", "schedule")
    spy(torch.optim.SGD, "zero_grad", "zero")
    spy(algorithm.ema, "update", "average")
    spy(algorithm.method.rule.avg_clustering, "after_step", "centres")
    train(algorithm, data, tmp_path, max_steps=1)
    assert order[0] == "schedule"  # the first learning rate
    assert order[1:] == ["backward", "clip", "step", "schedule", "zero", "average", "centres"]


def test_the_learning_rate_follows_the_schedule(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    from layermatch.functional import cosine

    seen: list[float] = []

    class Watcher(Recorder):
        def apply_step(self, step: Step) -> None:
            seen.append(self.optimizers().param_groups[0]["lr"])
            super().apply_step(step)

    data = make_data()
    algorithm = make_algorithm(data, kind=Watcher, schedule=cosine, lr=0.03, accumulate=2)
    train(algorithm, data, tmp_path, max_steps=4)
    assert seen == pytest.approx([0.03 * np.cos(7 * np.pi * k / (16 * 4)) for k in range(4)])


def test_parameter_groups_decay_kernels_only(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data)
    trainer = train(algorithm, data, tmp_path, max_steps=1)
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert set(groups) == {"extractor/decay", "extractor/no_decay", "classifier/decay", "classifier/no_decay"}
    names = {id(p): n for n, p in algorithm.network.named_parameters()}
    batch_norm = {
        id(p) for m in algorithm.network.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()
    }
    for name, group in groups.items():
        for parameter in group["params"]:
            no_decay = id(parameter) in batch_norm or names[id(parameter)].endswith(".bias")
            assert name.endswith("no_decay") == no_decay
            assert group["weight_decay"] == (0.0 if no_decay else 5e-4)
    assert sum(len(group["params"]) for group in groups.values()) == len(names)


@pytest.mark.parametrize("forward", ["split", "shared", "joint"])
def test_bf16_autocast_gives_every_parameter_a_gradient(
    forward: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, SeparateLosses(avg_clustering="ema_centroids"), kind=Recorder, forward=forward)
    train(algorithm, data, tmp_path, max_steps=1, precision="bf16-mixed")
    gradients = algorithm.gradients[0]
    assert set(gradients) == {name for name, _ in algorithm.network.named_parameters()}
    assert all(grad.abs().max() > 0 for grad in gradients.values())


def test_all_forwards_agree_without_batch_statistics(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    found = {}
    for forward in ("split", "shared", "joint"):
        algorithm = without_batch_norm(
            make_algorithm(data, SeparateLosses(avg_clustering="ema_centroids"), kind=Recorder, forward=forward)
        )
        train(algorithm, data, tmp_path, max_steps=1)
        found[forward] = algorithm.gradients[0]
    for forward in ("split", "shared"):
        for name, grad in found["joint"].items():
            torch.testing.assert_close(found[forward][name], grad, rtol=1e-4, atol=1e-6)


def test_sharing_every_weak_view_is_the_joint_forward_to_the_bit(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    found = {}
    for forward in ("shared", "joint", "split"):
        algorithm = make_algorithm(
            data,
            SeparateLosses(avg_clustering="ema_centroids"),
            forward=forward,
            weak_share=1 if forward == "shared" else None,
        )
        train(algorithm, data, tmp_path, max_steps=3)
        found[forward] = {name: value for name, value in parameters_of(algorithm).items() if "running" not in name}
    assert all(torch.equal(value, found["joint"][name]) for name, value in found["shared"].items())
    assert any(not torch.equal(value, found["joint"][name]) for name, value in found["split"].items())


@pytest.mark.parametrize("forward", ["split", "shared", "joint"])
def test_no_step_reads_the_running_statistics(
    forward: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    """So BatchNorm's momentum is none of what can make one forward learn otherwise than another."""
    data = make_data()
    found = {}
    for momentum in (0.001, 0.5):
        algorithm = make_algorithm(data, SeparateLosses(), forward=forward)
        for module in algorithm.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = momentum
        train(algorithm, data, tmp_path, max_steps=3)
        found[momentum] = parameters_of(algorithm)
    slow, fast = found[0.001], found[0.5]
    running = {name for name in slow if "running" in name}
    assert running
    assert all(torch.equal(slow[name], fast[name]) for name in slow if name not in running)
    assert not any(torch.equal(slow[name], fast[name]) for name in running)


def test_norms_that_are_replaced_before_training_share_their_statistics(make_data: Make, make_algorithm: Make) -> None:
    """As ``trainer.sync_batchnorm`` does between construction and the first step."""
    algorithm = make_algorithm(make_data(), SeparateLosses(avg_clustering="ema_centroids"), forward="shared")
    algorithm.network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(algorithm.network)
    views = {"labelled": torch.zeros(4, 1, 8, 8), "strong": torch.zeros(8, 1, 8, 8)}
    algorithm.method.send_with_weak(views, torch.zeros(8, 1, 8, 8), algorithm.network.eval())
    norms = [each.norm for each in algorithm.method._statistics._all]
    assert norms
    assert norms == [m for m in algorithm.network.modules() if isinstance(m, torch.nn.SyncBatchNorm)]


@pytest.mark.parametrize("rule", ["uniform", "ema_centroids", "ema_classifier", "decoupled", "conflict"])
def test_skipping_masked_views_changes_no_gradient_without_batch_statistics(
    rule: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    found, masks = {}, []
    for skip in (False, True):
        options: dict[str, Any] = {"forward": "split", "skip_masked": skip, "threshold": 0.15, "log_every": 1}
        algorithm = without_batch_norm(make_algorithm(data, RULES[rule](), kind=Recorder, **options))
        train(algorithm, data, tmp_path, max_steps=2)
        found[skip] = algorithm.gradients
        masks.append(algorithm.latest["pseudo_labels/mask_rate"])
    assert 0 < masks[0] < 1  # some are masked, some are not
    assert masks[0] == masks[1]
    for with_all, with_some in zip(found[False], found[True], strict=True):
        for name, grad in with_all.items():
            torch.testing.assert_close(with_some[name], grad, rtol=1e-4, atol=1e-6)


def test_skipping_when_every_view_is_masked(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data()
    algorithm = make_algorithm(
        data,
        SeparateLosses(avg_clustering="ema_centroids"),
        kind=Recorder,
        forward="split",
        skip_masked=True,
        threshold=1.0,
    )
    train(algorithm, data, tmp_path, max_steps=2)
    assert all(grad.isfinite().all() for gradients in algorithm.gradients for grad in gradients.values())


def test_pseudo_label_quality_is_counted_right(make_data: Make, make_algorithm: Make) -> None:
    data = make_data()
    algorithm = make_algorithm(data)
    batch = data.batch_of_step(0)
    unlabelled = batch.unlabelled
    truth = torch.arange(len(unlabelled.indices)) % 10
    wrong = truth.clone()
    wrong[:4] = (wrong[:4] + 1) % 10
    weight = torch.ones(len(truth))
    weight[8:] = 0
    from layermatch.policies import PseudoLabels

    hidden = truth.clone()
    hidden[:2] = -1  # two of the wrong ones are of unknown truth
    probs = torch.full((len(truth), 10), 0.1)
    probs[0] = torch.eye(10)[3]  # one is certain
    record_quality(PseudoLabels(wrong, weight, wrong, weight), probs, hidden, step=step_of(algorithm))
    means = algorithm.lines.meter.read_out(data.classes)
    assert means["pseudo_labels/mask_rate"] == pytest.approx(8 / len(truth))
    assert means["pseudo_labels/accuracy_accepted"] == pytest.approx(4 / 6)
    assert means["pseudo_labels/accuracy"] == pytest.approx((len(truth) - 4) / (len(truth) - 2))
    assert means["pseudo_labels/entropy"] == pytest.approx(np.log(10) * (len(truth) - 1) / len(truth), rel=1e-6)
    for number, name in enumerate(data.classes):
        assert means[f"pseudo_labels/per_class_counts/{name}"] == (wrong[:8] == number).sum()


def test_pseudo_labels_of_labelled_images_are_in_no_figure(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    """Every image has a label: of all pseudo-labels a few are right, but of none is that news."""
    data = make_data(num_labels=None, num_val=0)
    algorithm = make_algorithm(data, threshold=0.12, log_every=1)
    train(algorithm, data, tmp_path, max_steps=2)
    assert algorithm.latest["pseudo_labels/mask_rate"] > 0
    assert not {"pseudo_labels/accuracy", "pseudo_labels/accuracy_accepted"} & set(algorithm.latest)


def test_what_is_unknown_now_has_no_value_of_earlier_steps(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, threshold=1.0, log_every=1)  # no pseudo-label counts
    algorithm.latest.update({"pseudo_labels/accuracy_accepted": 0.97, "val/accuracy": 0.5})
    train(algorithm, data, tmp_path, max_steps=1)
    assert algorithm.latest["pseudo_labels/mask_rate"] == 0
    assert "pseudo_labels/accuracy_accepted" not in algorithm.latest
    assert algorithm.latest["val/accuracy"] == 0.5


def test_counts_by_class_are_those_of_a_whole_step(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    """Two accumulated batches of 8 accept what one of 16 does."""
    found = []
    for batch_size, accumulate in ((16, 1), (8, 2)):
        data = make_data(batch_size=batch_size)
        algorithm = without_batch_norm(make_algorithm(data, threshold=0.12, accumulate=accumulate, log_every=1))
        train(algorithm, data, tmp_path, max_steps=1)
        counts = {n: v for n, v in algorithm.latest.items() if n.startswith("pseudo_labels/per_class_counts/")}
        assert sum(counts.values()) == pytest.approx(32 * algorithm.latest["pseudo_labels/mask_rate"])
        found.append(counts)
    assert found[0] == pytest.approx(found[1])
    assert 0 < sum(found[0].values()) < 32


def test_thresholds_of_the_policy_are_logged(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, threshold=0.15, log_every=2)
    train(algorithm, data, tmp_path, max_steps=2)
    names = [f"pseudo_labels/thresholds/{name}" for name in data.classes]
    assert {name: algorithm.latest[name] for name in names} == dict.fromkeys(names, 0.15)


@pytest.mark.parametrize("rule", ["uniform", "ema_centroids", "ema_classifier"])
def test_drift_is_how_far_the_centres_moved_between_log_lines(
    rule: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    seen: list[Tensor] = []

    class Watcher(SemiSupervisedModule):
        def log_values(self, values: dict[str, float]) -> None:
            centres = {
                "uniform": lambda: self.network.classifier.weight,
                "ema_centroids": lambda: self.method.rule.avg_clustering.centroids,
                "ema_classifier": lambda: self.method.rule.avg_clustering.centre_weight,
            }[rule]()
            seen.append(centres.detach().clone())
            super().log_values(values)

    data = make_data()
    algorithm = make_algorithm(data, RULES[rule](), kind=Watcher, threshold=0.01, log_every=3)
    train(algorithm, data, tmp_path, max_steps=6)
    first, second = (centres.numpy() for centres in seen)
    expected = np.linalg.norm(second - first) / np.linalg.norm(first)
    assert algorithm.latest["centres/drift"] == pytest.approx(expected, rel=1e-4)


def test_centres_that_start_at_nothing_have_no_drift_yet(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, RULES["ema_centroids"](), threshold=0.01, log_every=2)
    train(algorithm, data, tmp_path, max_steps=2)
    assert "centres/drift" not in algorithm.latest


def test_what_is_not_finite_is_never_logged(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data()
    algorithm = make_algorithm(data, log_every=1)
    train(algorithm, data, tmp_path, max_steps=1, loggers=[MetricsCsv(tmp_path)])
    algorithm.log_with_next({"worse": float("-inf"), "next": 2.0})
    algorithm.log_values({"bad": float("nan"), "good": 1.0})
    algorithm.log_values({"later": 3.0})
    with (tmp_path / "metrics.csv").open() as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows[1:] == [{"good": "1.0", "next": "2.0", "step": "1"}, {"later": "3.0", "step": "1"}]
    assert not {"bad", "worse"} & set(algorithm.latest)


def test_evaluation_counts_live_and_averaged_weights(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    data = make_data()
    algorithm = make_algorithm(data, ema_decay=0.9)
    trainer = train(algorithm, data, tmp_path, max_steps=5)
    trainer.test(algorithm, datamodule=data, verbose=False)
    test = data.test
    images = data.normalise(torch.from_numpy(test.images.read(np.arange(len(test)))))
    for name, network in {"test/accuracy": algorithm.network, "test/accuracy_ema": algorithm.ema.network}.items():
        network.eval()
        with torch.no_grad():
            right = (network(images).logits.argmax(dim=1).numpy() == test.labels).mean()
        assert algorithm.latest[name] == pytest.approx(right, abs=1e-6)
    assert algorithm.evaluation.test_confusion.sum() == len(test)
    assert algorithm.evaluation.test_confusion.diag().sum() == pytest.approx(
        algorithm.latest["test/accuracy_ema"] * len(test)
    )
    different = [
        n
        for n, p in algorithm.network.named_parameters()
        if not torch.equal(p, dict(algorithm.ema.network.named_parameters())[n])
    ]
    assert different  # the average is a network of its own


def test_overfits_one_batch(make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path) -> None:
    data = make_data(overfit=True)
    algorithm = make_algorithm(
        data, SeparateLosses(avg_clustering="ema_centroids"), threshold=0.95, log_every=10, lr=0.1
    )
    train(algorithm, data, tmp_path, max_steps=80)
    assert algorithm.latest["loss/supervised"] < 0.02
    batch = data.batch_of_step(0)
    algorithm.network.eval()
    with torch.no_grad():
        accuracy = (
            (algorithm.network(batch.labelled.views["weak"]).logits.argmax(dim=1) == batch.labelled.label)
            .float()
            .mean()
        )
    assert accuracy == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0}, "clip_norm=0"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"forward": "both"}, "forward='both'"),
        ({"skip_masked": 1}, "skip_masked=1"),
        ({"skip_masked": True, "forward": "joint"}, "needs forward=split"),
        ({"skip_masked": True, "forward": "shared"}, "needs forward=split"),
        ({"forward": "shared", "weak_share": 1.5}, "weak_share=1.5"),
        ({"weak_share": 0.5}, "weak_share=0.5 needs forward=shared"),
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"log_every": 0}, "log_every=0"),
        ({"layer_gradients_every": -1}, "layer_gradients_every=-1"),
        ({"layer_gradients_every": 0.5}, "layer_gradients_every=0.5"),
    ],
)
def test_wrong_options_are_refused(
    options: dict[str, Any], message: str, make_data: Make, make_algorithm: Make
) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        make_algorithm(make_data(), **options)


def test_decoupled_adds_a_second_head_which_is_a_group_of_its_own(make_data: Make, make_algorithm: Make) -> None:
    algorithm = make_algorithm(make_data(), SeparateLosses(decoupled=True))
    assert list(algorithm.network.parameter_groups()) == ["extractor", "classifier", "pseudo_classifier"]
    assert list(algorithm.ema.network.heads) == ["classifier", "pseudo_classifier"]


@pytest.mark.parametrize("setting", ["gradient_clip_val", "accumulate_grad_batches"])
def test_lightning_itself_refuses_clipping_and_accumulation(
    setting: str, make_data: Make, make_algorithm: Make, tmp_path: Path
) -> None:
    """Why they are ours: the day Lightning supports them, this fails and ours can go."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    data: SemiSupervisedData = make_data()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        **{setting: 2},
    )
    with pytest.raises(MisconfigurationException):
        trainer.fit(make_algorithm(data), datamodule=data)
    assert make_trainer  # ours passes neither


def test_a_teacher_labels_with_the_averaged_weights_in_evaluation_mode(make_data: Make, make_algorithm: Make) -> None:
    algorithm = make_algorithm(make_data(), SeparateLosses(avg_clustering="ema_teacher"), threshold=0.15)
    with torch.no_grad():  # the average is far from the live weights
        for parameter in algorithm.ema.network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        expected_network = copy.deepcopy(algorithm.ema.network).eval()
    weak = torch.randn(6, 1, 8, 8)
    indices = torch.arange(6)
    unlabelled = Unlabelled({"weak": weak, "strong": weak}, indices, torch.full((6,), -1))
    with torch.no_grad():
        out_weak = algorithm.network.train()(weak)
        expected = expected_network(weak).logits.softmax(dim=1)
    batch = Batch(Samples({"weak": weak}, indices, indices), unlabelled)
    found, _ = algorithm.method.make_pseudo_labels(out_weak, None, batch, step_of(algorithm))
    assert found.label.tolist() == expected.argmax(dim=1).tolist()
    torch.testing.assert_close(found.confidence, expected.max(dim=1).values)
    assert not torch.allclose(found.confidence, out_weak.logits.softmax(dim=1).max(dim=1).values)
    assert not found.confidence.requires_grad
