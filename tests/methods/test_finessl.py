"""FineSSL against numbers of the authors' code: values, gradients and counts; its edges and its state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import oracle
from tests.given import (
    batch_of,
    check_classifier_learns_from_labels,
    finish,
    gradient,
    image,
    network_of,
    problem_of,
    step_of,
)
from tests.oracle import Worst, tensor
from torch import Tensor, nn

from layermatch.data.batch import Batch
from layermatch.errors import UserError
from layermatch.functional import balanced_margins, smoothed_loss_of_accepted, with_margin
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import FineSSL
from layermatch.networks import Network
from layermatch.parts import LatestLabels

ORACLE = oracle.read("finessl")
START = ORACLE["inputs"]
K, N = START["K"], START["N"]
VIEWS = {"labelled": "lb", "weak": "w", "strong": "s", "strong_2": "s_2"}


def method_of(config: dict[str, Any], network: Network) -> FineSSL:
    method = FineSSL(
        rule=Uniform(lambda_u=config["w_con"]), margin=config["alpha"], threshold=config["th"],
        min_threshold=config["th_min"], smoothing=config["smoothing"], period=START["period"],
    )  # fmt: skip
    held = {name: value.clone() for name, value in network.state_dict().items()}
    method.prepare(network, problem_of(K, num_unlabelled=START["n_unlabelled"]))
    network.load_state_dict(held)  # the auxiliary head is to give the numbers that the oracle has for it
    return method


@pytest.mark.oracle
@pytest.mark.parametrize("variant", ORACLE["config"])
def test_every_step_is_that_of_the_authors_code(variant: str) -> None:
    network, worst = network_of(K, auxiliary=K), Worst()
    config = ORACLE["config"][variant]
    method = method_of(config, network)
    for number, recorded in enumerate(ORACLE["steps"]):
        given, wanted, seen = recorded["inputs"], recorded["outputs"][variant], {}
        views = {
            view: image(given[f"logits_{name}"], given[f"aux_logits_{name}"]).requires_grad_()
            for view, name in VIEWS.items()
        }
        rest = {view: views[view] for view in ("weak", "strong", "strong_2")}
        batch = batch_of(views["labelled"], given["y_lb"], rest, pool_indices=given["idx_ulb"])
        worst.see(method.margins(), wanted["margins"], "margins")
        step = step_of(network, number, seen=seen)
        losses = method.losses(batch, step)
        names = {"supervised": "Lx", "supervised_auxiliary": "Lx1", "pseudo": "Lu", "pseudo_auxiliary": "Lu1"}
        for name, key in names.items():
            worst.see(losses[name].value, wanted[key], key)
        worst.see(losses.total, wanted["loss"], "loss")
        losses.total.backward(retain_graph=True)
        of_head = torch.zeros(K, 2 * K, dtype=torch.float64)
        for view, name in VIEWS.items():
            main = views[view].grad[:, :K]
            worst.see(main, wanted.get(f"grad_logits_{name}", torch.zeros_like(main)), f"gradient of {view}")
            assert not views[view].grad[:, K:].any()  # the auxiliary head teaches the extractor nothing
            if f"grad_aux_logits_{name}" in wanted:
                of_head += tensor(wanted[f"grad_aux_logits_{name}"]).T @ views[view].detach()
        found = gradient(losses.total, network, "auxiliary")
        worst.see(found[: of_head.numel()], of_head.flatten(), "gradient of the auxiliary head")
        finish(method, step)
        selected = np.array(wanted["state_selected_label"])
        if (number + 1) % START["period"]:  # at the end of a period they are forgotten here, at the next step there
            assert np.where(selected < 0, K, selected).tolist() == method.latest.latest.tolist()
            assert method.latest.counts[:K].tolist() == np.bincount(selected[selected >= 0], minlength=K).tolist()
    worst.say(f"finessl {variant}")


# --------------------------------------------------------------------------------------------------------------- edges


def reference(logits: np.ndarray, label: np.ndarray, mask: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
    """The smoothed loss and its gradient, image by image and class by class."""
    loss, grad, classes = 0.0, np.zeros_like(logits), logits.shape[1]
    accepted = mask.sum()
    for i, row in enumerate(logits):
        q = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for k in range(classes):
            t = 1 - smoothing if k == label[i] else smoothing / (classes - 1)
            if accepted:
                loss -= mask[i] * t * np.log(q[k]) / accepted
                grad[i, k] = mask[i] * (q[k] - t) / accepted
    return loss, grad


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("accepted", ["all", "none", "some"])
def test_smoothed_loss_is_its_equation(accepted: str, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(12, num_classes, dtype=torch.float64, generator=generator)
    label = torch.arange(12) % num_classes
    mask = {"all": torch.ones(12), "none": torch.zeros(12)}.get(accepted, (torch.arange(12) % 3 == 0).float())
    logits.requires_grad_()
    loss = smoothed_loss_of_accepted(logits, label, mask, smoothing=0.3)
    loss.backward()
    wanted, grad = reference(logits.detach().numpy(), label.numpy(), mask.double().numpy(), 0.3)
    assert loss.item() == pytest.approx(wanted, rel=1e-12)
    torch.testing.assert_close(logits.grad, torch.from_numpy(grad), rtol=1e-10, atol=1e-15)
    # Two ranks with half of the images each, which know the share of both.
    halves = [
        smoothed_loss_of_accepted(logits[part], label[part], mask[part], smoothing=0.3, share=mask.double().mean())
        for part in (slice(0, 6), slice(6, 12))
    ]
    assert (sum(halves) / 2).item() == pytest.approx(wanted, rel=1e-12)
    exact = smoothed_loss_of_accepted(logits.detach().bfloat16(), label, mask, smoothing=0.3)
    assert exact.dtype == torch.float32
    assert exact.item() == pytest.approx(wanted, rel=0.05)


def test_margins_of_classes_that_are_learnt_alike_are_0_and_of_an_absent_class_the_largest() -> None:
    for status in (torch.zeros(4), torch.ones(4)):
        assert not balanced_margins(status, scale=8.0).any()
    margins = balanced_margins(torch.tensor([1.0, 0.0, 0.25]), scale=8.0)
    torch.testing.assert_close(margins, torch.tensor([0.0, 8.0, 8 * 0.75 / 1.25]))
    logits = with_margin(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([1.0, 5.0]))  # K = 2
    assert logits.tolist() == [[0, 1], [5, 0]]


def small(rule: Any = None, **options: Any) -> tuple[Network, FineSSL, Batch]:
    torch.manual_seed(0)
    network = Network(nn.Linear(5, 4), num_features=4, num_classes=3).double()
    method = FineSSL(rule=rule or Uniform(), **options)
    problem = problem_of(3, 4)
    network.add_head("auxiliary", method.heads(problem)["auxiliary"].double())
    method.prepare(network, problem)
    views = {view: 2 * torch.randn(24, 5).double() for view in ("weak", "strong", "strong_2")}
    return network, method, batch_of(torch.randn(8, 5).double(), torch.arange(8) % 3, views)


def test_the_auxiliary_head_starts_as_the_classifier_and_is_not_evaluated() -> None:
    network, method, batch = small()
    for name, value in network.classifier.state_dict().items():
        assert torch.equal(network.heads["auxiliary"].state_dict()[name], value)
    weak = batch.unlabelled.views["weak"]
    assert torch.equal(method.outputs(network, weak).logits, network(weak).logits)
    assert method.evaluated_head == "classifier"


@pytest.mark.parametrize("threshold", [1e-6, 1.0])
def test_all_or_nothing_is_accepted(threshold: float) -> None:
    network, method, batch = small(threshold=threshold, min_threshold=min(threshold, 1.0), count_threshold=threshold)
    step = step_of(network)
    losses = method.losses(batch, step)
    finish(method, step)
    assert all(term.value.isfinite() for term in losses.values())
    assert (losses["pseudo"].value > 0) == (losses["pseudo_auxiliary"].value > 0) == (threshold < 1)
    assert method.latest.counts.sum() == 24
    assert (method.latest.counts[-1] == 0) == (threshold < 1)
    losses.total.backward()


def test_under_grad_relu_the_classifier_learns_from_labels_alone() -> None:
    network, method, batch = small(SeparateLosses(avg_clustering="none"), count_threshold=0.4)
    finish_of = step_of(network)
    method.losses(batch, finish_of)
    finish(method, finish_of)
    assert method.margins().any()
    losses = method.losses(batch, step_of(network, 1))
    check_classifier_learns_from_labels(network, losses)
    assert gradient(losses["pseudo"].value, network, "extractor").any()
    for term in losses.values():
        for group in network.parameter_groups():
            assert not gradient(term.value, network, group).any() or group in term.reaches


def test_a_smoothing_that_leaves_a_label_no_more_than_the_others_is_refused() -> None:
    method = FineSSL(rule=Uniform(), smoothing=0.5)
    with pytest.raises(UserError, match=r"^smoothing=0.5 is not legal with 2 classes, .*: give a number below 0.5$"):
        method.prepare(network_of(2), problem_of(2))


# --------------------------------------------------------------------------------------------------------------- state


def counted(latest: LatestLabels) -> list[int]:
    return latest.counts.tolist()


def test_the_latest_label_of_an_image_counts_and_a_step_that_is_not_applied_does_not() -> None:
    latest, network = LatestLabels(num_classes=2, pool=4, period=3), network_of(K)
    sure = torch.tensor([True, True, False])
    latest.see(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), sure)  # an image twice: the last counts
    assert counted(latest) == [0, 0, 4]
    latest.discard_step()
    latest.after_step(step_of(network, 0))
    assert counted(latest) == [0, 0, 4]
    latest.see(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), sure)
    latest.see(torch.tensor([3]), torch.tensor([1]), torch.tensor([True]))  # two batches of a step
    latest.after_step(step_of(network, 1))
    assert counted(latest) == [0, 2, 2]
    assert latest.latest.tolist() == [2, 1, 2, 1]
    latest.see(torch.tensor([3]), torch.tensor([0]), torch.tensor([True]))
    latest.after_step(step_of(network, 3))
    assert counted(latest) == [1, 1, 2]
    latest.after_step(step_of(network, 5))  # the end of a period
    assert counted(latest) == [0, 0, 4]
    assert latest.latest.tolist() == [2] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": SeparateLosses(avg_clustering="ema_centroids")},
            "avg_clustering=ema_centroids is not legal with FineSSL",
        ),
        ({"margin": -1}, "margin=-1"),
        ({"threshold": 0}, "threshold=0"),
        ({"min_threshold": 2}, "min_threshold=2"),
        ({"count_threshold": 0}, "count_threshold=0"),
        ({"smoothing": 1}, "smoothing=1"),
        ({"period": 0}, "period=0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FineSSL(**({"rule": Uniform()} | options))


def test_margins_carry_no_gradient_of_their_own() -> None:
    logits: Tensor = torch.zeros(1, 3, requires_grad=True)
    with_margin(logits, torch.tensor([0]), torch.ones(3)).sum().backward()
    assert logits.grad.tolist() == [[1, 1, 1]]
