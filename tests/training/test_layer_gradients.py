"""Gradients by layer group equal plain autograd, and to measure them changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layermatch.data.batch import Views
from layermatch.layerwise import GradientRule, LayerwiseRule, ScaledGradients, SeparateLosses, Uniform
from layermatch.networks import Network, Output
from layermatch.parts import Losses, Problem
from layermatch.policies import PseudoLabels
from layermatch.training import SemiSupervisedModule
from layermatch.training.layer_gradients import measure_layer_gradients

Make = Callable[..., Any]

B, N, D, K = 5, 12, 7, 4

RULES = {
    "uniform": Uniform,
    "weighted": lambda: Uniform(lambda_u=2.5),
    "layermatch": lambda: SeparateLosses(avg_clustering="none"),
    "conflict": lambda: SeparateLosses(grad_relu="conflict", avg_clustering="none"),
    "scaled": Uniform,
}
#: What gradients go through beside the rule.
SCALES = {"scaled": ScaledGradients({"extractor.2": 0.25, "classifier": 0.0})}


class TinyProblem:
    """A network of three layer groups in float64, and one batch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        extractor = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, D))
        self.network = Network(extractor, num_features=D, num_classes=K).double()
        self.labelled, self.strong = torch.randn(B, 6).double(), torch.randn(N, 6).double()
        self.label, target = torch.randint(K, (B,)), torch.randint(K, (N,))
        weight = (torch.rand(N) < 0.5).double()
        self.pseudo_labels = PseudoLabels(target, weight, target, weight)

    def outputs(self) -> tuple[Output, Output]:
        """Of the labelled and of the strong images."""
        out = self.network(torch.cat([self.labelled, self.strong]))
        return (
            Output(out.features[:B], {"classifier": out.logits[:B]}),
            Output(out.features[B:], {"classifier": out.logits[B:]}),
        )

    def losses(self, rule: LayerwiseRule) -> Losses:
        labelled, strong = self.outputs()
        return rule(self.network, labelled, strong, label=self.label, pseudo_labels=self.pseudo_labels)

    def diagnosis(self, rule: LayerwiseRule) -> dict[str, tuple[Tensor, Tensor]]:
        labelled, strong = self.outputs()
        losses = rule(self.network, labelled, strong, label=self.label, pseudo_labels=self.pseudo_labels)
        return rule.diagnose(losses, strong)

    def description(self) -> Problem:
        return Problem(
            num_classes=K, num_features=D, num_labelled=B, num_unlabelled=N, image_shape=(1, 2, 3), max_steps=100
        )

    def plain_gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Of L_s and of FixMatch's L_u, by plain autograd."""
        parameters = dict(self.network.named_parameters())
        target, weight = self.pseudo_labels.target, self.pseudo_labels.weight
        supervised = F.cross_entropy(self.network(self.labelled).logits, self.label)
        losses = [
            w * F.cross_entropy(logits, t)
            for logits, t, w in zip(self.network(self.strong).logits, target, weight, strict=True)
        ]
        both = (supervised, torch.stack(losses).sum() / N)
        grads = [torch.autograd.grad(loss, list(parameters.values())) for loss in both]
        return dict(zip(parameters, grads[0], strict=True)), dict(zip(parameters, grads[1], strict=True))


def received(rule: str, name: str, supervised: Tensor, pseudo: Tensor) -> Tensor:
    """What each rule is documented to let through."""
    in_classifier = name.startswith("classifier.")
    if rule == "weighted":
        return 2.5 * pseudo
    if rule == "layermatch" and in_classifier:
        return torch.zeros_like(pseudo)
    if rule == "conflict" and in_classifier:
        return torch.where(supervised * pseudo > 0, pseudo, torch.zeros_like(pseudo))
    if rule == "scaled":
        return (0.0 if in_classifier else 0.25 if name.startswith("extractor.2.") else 1.0) * pseudo
    return pseudo


@pytest.mark.parametrize("name", RULES)
def test_values_are_those_of_plain_autograd(name: str) -> None:
    problem = TinyProblem()
    rule = RULES[name]()
    through: GradientRule | None = SCALES.get(name, rule.gradient_rule)
    assert (through is not None) == (name in {"conflict", "scaled"})
    combine = through.combine if through else None
    measured = measure_layer_gradients(problem.network, problem.losses(rule), combine=combine)
    supervised, pseudo = problem.plain_gradients()
    for group, prefix in {"0": "extractor.0.", "2": "extractor.2.", "classifier": "classifier."}.items():
        names = [parameter for parameter in supervised if parameter.startswith(prefix)]
        assert names
        s = np.concatenate([supervised[n].numpy().ravel() for n in names])
        p = np.concatenate([received(name, n, supervised[n], pseudo[n]).numpy().ravel() for n in names])
        values = {key: measured.pop(f"layers/{group}/{key}") for key in ("grad_norm_supervised", "grad_norm_pseudo")}
        assert values["grad_norm_supervised"].item() == pytest.approx(np.sqrt((s**2).sum()), rel=1e-12)
        assert values["grad_norm_pseudo"].item() == pytest.approx(np.sqrt((p**2).sum()), rel=1e-10, abs=1e-14)
        cosine = measured.pop(f"layers/{group}/cosine").item()
        if name in {"layermatch", "scaled"} and group == "classifier":
            assert np.isnan(cosine)
        else:
            expected = (s * p).sum() / np.sqrt((s**2).sum() * (p**2).sum())
            assert cosine == pytest.approx(expected, abs=1e-10)
            assert -1 < cosine < 1
    assert not measured


def test_a_gradient_that_is_nothing_has_no_direction() -> None:
    problem = TinyProblem()
    problem.pseudo_labels = problem.pseudo_labels._replace(weight=torch.zeros(N).double())
    measured = measure_layer_gradients(problem.network, problem.losses(Uniform()))
    assert {v.item() for n, v in measured.items() if n.endswith("pseudo")} == {0.0}
    assert all(v.isnan() for n, v in measured.items() if n.endswith("cosine"))


def test_frozen_layers_are_left_out() -> None:
    problem = TinyProblem()
    whole = measure_layer_gradients(problem.network, problem.losses(Uniform()))
    problem.network.extractor[0].requires_grad_(False)
    part = measure_layer_gradients(problem.network, problem.losses(Uniform()))
    assert not [name for name in part if name.startswith("layers/0/")]
    assert len(part) == len(whole) - 3
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name])


def test_grad_is_not_touched() -> None:
    problem = TinyProblem()
    losses = problem.losses(Uniform())
    measure_layer_gradients(problem.network, losses)
    assert all(parameter.grad is None for parameter in problem.network.parameters())
    losses.total.backward()  # the graph is still there
    expected = {name: parameter.grad.clone() for name, parameter in problem.network.named_parameters()}
    problem.network.zero_grad()
    problem.losses(Uniform()).total.backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in problem.network.named_parameters())


TRAINED = {
    "uniform": (Uniform, {}),
    "layermatch": (SeparateLosses, {}),
    "ema_centroids": (lambda: SeparateLosses(avg_clustering="ema_centroids"), {}),
    "shared": (SeparateLosses, {"forward": "shared"}),
    "skip_masked": (SeparateLosses, {"forward": "split", "skip_masked": True}),
    "conflict": (lambda: SeparateLosses(grad_relu="conflict"), {}),
    "scaled": (SeparateLosses, {"gradient_scale": {"extractor.groups.0": 0.5}}),
    "decoupled": (lambda: SeparateLosses(decoupled=True), {}),
    "accumulate": (SeparateLosses, {"accumulate": 2}),
    "bf16": (SeparateLosses, {"precision": "bf16-mixed"}),
}


def state_after(
    rule: Any,
    every: int | None,
    make_data: Make,
    make_algorithm: Make,
    train: Make,
    folder: Path,
    *,
    precision: str = "32-true",
    **options: Any,
) -> tuple[SemiSupervisedModule, dict[str, Tensor]]:
    data = make_data()
    algorithm = make_algorithm(data, rule(), layer_gradients_every=every, threshold=0.15, log_every=2, **options)
    trainer = train(algorithm, data, folder, max_steps=4, precision=precision)
    state = {**algorithm.state_dict(), "random": torch.get_rng_state()}
    for group in trainer.optimizers[0].state.values():
        state |= {f"momentum {len(state)}": group["momentum_buffer"]}
    return algorithm, state


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_same_to_the_bit(
    name: str, make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    rule, options = TRAINED[name]
    parts = (make_data, make_algorithm, train, tmp_path)
    without, expected = state_after(rule, 0, *parts, **options)
    measured, state = state_after(rule, 1, *parts, **options)
    assert set(state) == set(expected)
    assert [key for key, value in expected.items() if not torch.equal(state[key], value)] == []
    layers = {name for name in measured.latest if name.startswith(("layers/", "avg_clustering/"))}
    assert layers
    assert not [name for name in without.latest if name.startswith(("layers/", "avg_clustering/"))]
    others = {name: value for name, value in measured.latest.items() if name not in layers}
    assert others == without.latest


def test_layer_groups_are_logged_on_their_interval(
    make_data: Make, make_algorithm: Make, train: Make, tmp_path: Path
) -> None:
    lines: list[set[str]] = []

    data = make_data()
    algorithm = make_algorithm(
        data, SeparateLosses(avg_clustering="ema_centroids"), threshold=0.15, log_every=2, layer_gradients_every=3
    )
    write = algorithm.log_values

    def listen(values: dict[str, float]) -> None:
        lines.append({name for name in values if name.startswith("layers/")})
        write(values)

    algorithm.log_values = listen
    train(algorithm, data, tmp_path, max_steps=6)
    groups = {"stem", "groups.0", "groups.1", "groups.2", "activation", "classifier"}
    expected = {f"layers/{g}/{n}" for g in groups for n in ("grad_norm_supervised", "grad_norm_pseudo", "cosine")}
    expected -= {"layers/classifier/cosine"}  # nothing comes through Grad-ReLU, and nothing has no direction
    assert lines == [set(), expected, expected]  # measured at steps 3 and 6, written at 4 and 6
    assert algorithm.latest["layers/classifier/grad_norm_pseudo"] == 0.0


def test_supervised_has_norms_alone(make_data: Make, make_supervised: Make, train: Make, tmp_path: Path) -> None:
    data = make_data(views=Views())
    algorithm = make_supervised(data, layer_gradients_every=1, log_every=1)
    train(algorithm, data, tmp_path, max_steps=1)
    layers = {name: value for name, value in algorithm.latest.items() if name.startswith("layers/")}
    assert len(layers) == 6
    assert all(name.endswith("/grad_norm_supervised") and value > 0 for name, value in layers.items())


def test_the_distance_of_avg_clustering_from_the_pseudo_label_loss() -> None:
    problem = TinyProblem()
    rule = SeparateLosses(avg_clustering="ema_classifier", weight=0.5)
    rule.prepare(problem.network, problem.description())
    at_first = problem.diagnosis(rule)
    assert {name: float(top) for name, (top, _) in at_first.items()} == {
        "avg_clustering/loss_gap": 0.0, "avg_clustering/gradient_gap": 0.0,
    }  # fmt: skip
    moved = rule.avg_clustering.get_buffer("centre_weight")
    with torch.no_grad():
        moved += 0.3 * torch.randn_like(moved)
    features = problem.network(problem.strong).features.detach().requires_grad_()
    target, weight = problem.pseudo_labels.target, problem.pseudo_labels.weight
    pair = []
    for rows in (moved, problem.network.classifier.weight):
        logits = features @ rows.T + problem.network.classifier.bias
        loss = sum(w * F.cross_entropy(row, t) for row, t, w in zip(logits, target, weight, strict=True)) / N
        pair.append((loss.item(), torch.autograd.grad(loss, features)[0]))
    found = {name: float(top / bottom) for name, (top, bottom) in problem.diagnosis(rule).items()}
    (loss, grad), (reference, grad_reference) = pair
    expected = {
        "avg_clustering/loss_gap": abs(loss - reference) / reference,
        "avg_clustering/gradient_gap": float((grad - grad_reference).norm() / grad_reference.norm()),
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert min(found.values()) > 1e-3


@pytest.mark.parametrize(
    "rule",
    [Uniform(), SeparateLosses(avg_clustering="none"), SeparateLosses(avg_clustering="ema_centroids", weight=0.0)],
)
def test_without_a_loss_of_avg_clustering_there_is_no_distance(rule: LayerwiseRule) -> None:
    problem = TinyProblem()
    rule.prepare(problem.network, problem.description())
    assert problem.diagnosis(rule) == {}
